"""What a report says of the experts that tokens go to: ties, wrong choices and drops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from harness.report.findings import Finding
from harness.report.summary import grouped
from harness.results import Choice, Drop, TapResult

SHOWN_DROPS, SHOWN_TOKENS = 4, 8


@dataclass(frozen=True)
class ChoiceFigures:
    """The choices of some results together.

    Attributes:
        tokens: how many were compared, layer by layer.
        ties: those that go to other experts, as the noise explains.
        wrong: those that go to others beyond it; `dropped`: to fewer.
        unseen: those that were left out, since the port does not show them.
    """

    tokens: int
    ties: int
    wrong: int
    dropped: int
    unseen: int


def figures(results: Iterable[TapResult]) -> ChoiceFigures:
    """Those of results that have any."""
    choices = [r.choice for r in results if r.choice is not None]
    return ChoiceFigures(
        *(sum(getattr(c, name) for c in choices) for name in ("tokens", "ties", "wrong", "dropped", "unseen"))
    )


def by_mode(results: Iterable[TapResult]) -> dict[tuple[str, str], list[TapResult]]:
    """By precision and mode, the results that have choices which are not all the golden's."""
    differing = (r for r in results if r.choice is not None and (r.choice.others or r.choice.unseen))
    return grouped(differing, lambda r: (r.precision, r.mode))


def sentences(results: Sequence[TapResult]) -> tuple[str, ...]:
    """One for every precision and mode in which a token goes to other experts, and one for what is dropped."""
    said: list[str] = []
    for (precision, mode), differing in by_mode(results).items():
        here = [r for r in results if (r.precision, r.mode) == (precision, mode)]
        said.append(f"{precision} {mode}: {_counts(figures(here))}{_widest(differing)}")
        dropping = next((r for r in differing if r.choice is not None and r.choice.dropped), None)
        if dropping is not None and dropping.choice is not None:
            where = f"{dropping.tap} in {dropping.case}"
            said.append(f"{precision} {mode}: dropped at {where} {dropped_by(dropping)}")
    return tuple(said)


def _counts(of: ChoiceFigures) -> str:
    counts = [f"{of.ties:,} of {of.tokens:,} choices are ties"] if of.ties or not of.unseen else []
    counts += [f"{of.wrong:,} wrong"] * bool(of.wrong) + [f"{of.dropped:,} dropped"] * bool(of.dropped)
    counts += [f"{of.unseen:,} tokens left out, whose choice is not shown and may be a tie"] * bool(of.unseen)
    return ", ".join(counts)


def _widest(results: Iterable[TapResult]) -> str:
    """The tie that is the widest in view of what is allowed."""
    ties = [(r, r.choice.tie) for r in results if r.choice is not None and r.choice.tie is not None]
    if not ties:
        return ""
    r, tie = max(ties, key=lambda pair: ((pair[1].gap or 0.0) - pair[1].allowed) / (pair[1].allowed or 1.0))
    return f"; the widest tie {tie.gap or 0.0:.2g} with {tie.allowed:.2g} allowed, {r.tap} in {r.case}"


def dropped_by(result: TapResult) -> str:
    """`by expert 3: tokens 5, 9 of row 1`, for the first of them."""
    drops = () if result.choice is None else result.choice.drops
    more = f"; and by {len(drops) - SHOWN_DROPS} more" if len(drops) > SHOWN_DROPS else ""
    return "; ".join(_dropped(result, drop) for drop in drops[:SHOWN_DROPS]) + more


def _dropped(result: TapResult, drop: Drop) -> str:
    shown = drop.positions[:SHOWN_TOKENS]
    more = f" and {drop.count - len(shown)} more" if drop.count > len(shown) else ""
    row = "" if result.row is None else f" of row {drop.row}"
    return f"by expert {drop.expert}: token{'s' * (drop.count > 1)} {', '.join(map(str, shown))}{more}{row}"


def evidence(finding: Finding, results: Iterable[TapResult]) -> Iterator[tuple[str, str]]:
    """What a finding has of wrong choices: (label, text)."""
    peers = [r for r in results if r.tap in finding.taps and r.choice is not None and r.verdict == "introduced"]
    peers.sort(key=lambda r: (r != finding.worst, r.mode != finding.worst.mode))
    for r in peers:
        if r.choice is not None and r.choice.worst is not None:
            yield "choice", f"case {r.case}, {r.tap}: {_wrong(r, r.choice.worst)}; {_counts(figures([r]))}"
            break
    for r in peers:
        if r.choice is not None and r.choice.dropped:
            yield "dropped", f"case {r.case}, {r.tap}: {dropped_by(r)}; {r.choice.dropped:,} tokens in all"
            break


def _wrong(result: TapResult, choice: Choice) -> str:
    row = "" if result.row is None else f" of row {choice.row}"
    experts = f"experts {_listed(choice.actual)} in place of {_listed(choice.golden)}"
    if choice.gap is None:
        return f"token {choice.position}{row} goes to {experts}, which no error of the scores explains"
    return (
        f"token {choice.position}{row} goes to {experts}: that is {choice.gap:.2g} away by the golden's scores, "
        f"and {choice.allowed:.2g} is allowed"
    )


def _listed(experts: Sequence[int]) -> str:
    return ", ".join(map(str, experts[:SHOWN_TOKENS])) + ", ..." * (len(experts) > SHOWN_TOKENS) or "none"


def pinned_note(results: Sequence[TapResult]) -> str | None:
    """That a port that shows its choices went on with the golden's; None where it made no other."""
    counts: dict[str, int] = {}
    for precision in dict.fromkeys(r.precision for r in results if r.precision != "float64"):
        of_mode = (
            figures(r for r in results if (r.precision, r.mode) == (precision, m)) for m in ("forward", "alone")
        )
        elsewhere = next((n for figure in of_mode if (n := figure.ties + figure.wrong + figure.dropped)), 0)
        if elsewhere:
            counts[precision] = elsewhere
    if not counts:
        return None
    said = ", ".join(f"{count:,} at {precision}" for precision, count in counts.items())
    return f"pinned: tokens that go to other experts than the golden's ({said}) went on with the golden's choice"
