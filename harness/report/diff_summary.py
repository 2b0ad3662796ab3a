"""What the views of a diff say, as text: headline, operations by status, what is still wrong, notes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.difference import BETTER, STATUSES, Change, Outcome, Status
from harness.report.diff_document import Diff, LogitFigures
from harness.report.summary import READABLE, grouped
from harness.report.wording import between, counted, folded, number, unit
from harness.taps import kind_of

# What the fix mended first, then what it broke.
ORDER: tuple[Status, ...] = ("fixed", "improved", "gained", "broken", "worse", "lost")


@dataclass(frozen=True)
class Operation:
    """One kind of tap that changed: where, and its largest multiple before and after, as text."""

    kind: str
    place: str
    extent: str
    before: str
    after: str
    unit: str


@dataclass(frozen=True)
class Section:
    """All changes of one status: those with a cause of their own by operation, the others as a number of taps."""

    status: Status
    better: bool
    operations: tuple[Operation, ...]
    inherited: int


def headline(diff: Diff) -> tuple[str, str]:
    """The verdict, and how many comparisons became what."""
    total, cases = sum(diff.counts.values()), len(diff.cases)
    counts = ", ".join(
        f"{diff.counts[status]:,} {status}"
        for status in STATUSES
        if diff.counts[status] or status not in ("lost", "gained")
    )
    return diff.verdict.upper(), f"{counts}   ({counted(total, 'comparison')}, {counted(cases, 'case')})"


def sections(diff: Diff) -> Iterator[Section]:
    """The statuses that occur."""
    for status in ORDER:
        changes = [change for change in diff.changes if change.status == status]
        own = [change for change in changes if not _inherited(change)]
        rest = {change.tap for change in changes} - {change.tap for change in own}
        if changes:
            yield Section(status, status in BETTER, tuple(operations(diff, own)), len(rest))


def operations(diff: Diff, changes: Sequence[Change]) -> Iterator[Operation]:
    """One entry per kind of tap."""
    for kind, group in grouped(changes, lambda change: kind_of(change.tap)).items():
        # Replay speaks about the operation alone; float32 multiples say more to a person than half-ulps.
        group = [change for change in group if change.mode == "replay"] or group
        taps = list(dict.fromkeys(change.tap for change in group))
        layers = sum(kind_of(name) == kind for name in diff.taps if name.startswith("layers."))
        worst = max(group, key=lambda change: (change.precision == READABLE, _size(change)))
        where = f"in {len(taps)} of {layers} layers, " if layers else ""
        yield Operation(
            kind,
            folded(taps, layers),
            f"{where}{worst.mode}; {', '.join(dict.fromkeys(change.precision for change in group))}",
            _figure(worst.before),
            _figure(worst.after),
            unit(worst.precision, worst.mode),
        )


def inheritance(section: Section) -> str:
    """The taps of a section that changed because of what is upstream."""
    return f"{counted(section.inherited, 'tap')} downstream, by inheritance alone"


def still_wrong(diff: Diff) -> str:
    """What is wrong after, in a sentence; the operations are those of `diff.still_wrong`."""
    after = diff.after
    if not after.wrong:
        return "nothing is wrong after"
    first = after.first_divergence
    assert first is not None
    start = f"{first.tap} (case {first.case}, {first.precision})"
    if diff.still_wrong:
        return f"which starts at {start}; {counted(after.wrong, 'comparison')} in all"
    return (
        f"still wrong: {counted(after.wrong, 'comparison')}, yet no operation on golden inputs; small errors "
        f"add up,\nfirst beyond the limit at {start}"
    )


def sides(diff: Diff) -> Iterator[tuple[str, str]]:
    """(before, its label, port and commit), and the same for after."""
    for when, side in (("before", diff.before), ("after", diff.after)):
        commit = f"  commit {side.git[:12]}" if side.git else ""
        port = f"  {side.port}" if side.port != side.label else ""
        yield when, f"{side.label}{port}{commit}"


def notes(diff: Diff) -> Iterator[str]:
    """What a reader has to know about either side, and about the two together."""
    shared = [note for note in diff.before.notes if note in diff.after.notes]
    yield from shared
    for when, side in (("before", diff.before), ("after", diff.after)):
        yield from (f"{when}: {note}" for note in side.notes if note not in shared)
    yield from diff.notes


def not_covered(diff: Diff) -> tuple[str, ...]:
    """What either side says nothing about."""
    return tuple(dict.fromkeys([*diff.after.not_covered, *diff.before.not_covered]))


def logit_row(logits: LogitFigures) -> tuple[str, ...]:
    """Largest absolute error, largest KL, flips of how many positions, ties."""
    flips = f"{logits.flips:,} of {logits.positions:,}"
    return number(logits.max_abs), between(logits.max_kl_low, logits.max_kl), flips, f"{logits.ties:,}"


def choices(diff: Diff) -> Iterator[str]:
    """A line for every precision and mode in which tokens go to other experts than in the golden."""
    for entry in diff.choices:
        old, new = entry.before, entry.after
        counts = (
            (name, getattr(old, name), getattr(new, name)) for name in ("ties", "wrong", "dropped", "unseen")
        )
        said = (f"{name} {a:,} to {b:,}" for name, a, b in counts if a or b)
        yield f"{entry.precision} {entry.mode}: {', '.join(said)}, of {new.tokens:,} choices"


def _inherited(change: Change) -> bool:
    """Whether the side that is wrong (before a fix, after a break) only inherited its error."""
    if change.before is None or change.after is None:
        return False
    wrong = change.before if change.status in ("fixed", "improved") else change.after
    return wrong.verdict == "inherited"


def _size(change: Change) -> float:
    sides = [side for side in (change.before, change.after) if side is not None]
    return max(math.inf if side.rms_multiple is None else side.rms_multiple for side in sides)


def _figure(side: Outcome | None) -> str:
    if side is None:
        return "not compared"
    return side.verdict if side.rms_multiple is None else number(side.rms_multiple)
