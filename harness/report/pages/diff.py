"""A diff as a page: the verdict, what changed and where, what is still wrong, the figures of both sides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.difference import BETTER, STATUSES, Change, Outcome, Status
from harness.report.blocks import Block, Detail, Finding, Lines, Page, Prose, Section
from harness.report.diff_document import Counts, Diff, Extreme, LogitFigures
from harness.report.pages import closing, criteria, judged_by, listed, outcome, part
from harness.report.pages.scales import Measured, ladder
from harness.report.summary import READABLE, grouped
from harness.report.tables import Style, Table, Text, code, numbers
from harness.report.wording import allowed, between, counted, folded, number, some, unit
from harness.taps import kind_of

# What the fix mended first, then what it broke.
ORDER: tuple[Status, ...] = ("fixed", "improved", "gained", "broken", "worse", "lost")
SHOWN = {"screen": 6, "summary": 20, "page": 1000}
TO = {"screen": "->", "summary": "→", "page": "→"}
STYLES: dict[str, Style] = {"better": "good", "same": "plain", "worse": "bad", "mixed": "bad"}


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
class Changed:
    """All changes of one status: those with a cause of their own by operation, the others as a number of taps."""

    status: Status
    better: bool
    operations: tuple[Operation, ...]
    inherited: int

    @property
    def inheritance(self) -> str:
        """The taps that changed because of what is upstream."""
        return f"{counted(self.inherited, 'tap')} downstream, by inheritance alone"


def page(diff: Diff, detail: Detail) -> Page:
    """A diff as a person reads it."""
    counts = ", ".join(
        f"{diff.counts[status]:,} {status}"
        for status in STATUSES
        if diff.counts[status] or status not in ("lost", "gained")
    )
    compared = counted(sum(diff.counts.values()), "comparison"), counted(len(diff.cases), "case")
    golden = ("golden", f"{diff.golden.path}  {diff.golden.id[:12]}")
    model, both = ("model", diff.golden.model), tuple(sides(diff))
    return Page(
        command="goldens diff",
        title=f"{diff.before.label} to {diff.after.label}",
        word=diff.verdict.upper(),
        style=STYLES[diff.verdict],
        said=f"{counts}   ({', '.join(compared)})",
        facts={"screen": (golden, *both), "summary": (*both, model), "page": (*both, model, golden)}[detail],
        notes=tuple(notes(diff)),
        body=tuple(_body(diff, detail)),
    )


def _body(diff: Diff, detail: Detail) -> Iterator[Block]:
    changed, wrong = tuple(_changed(diff, detail)), _still_wrong(diff, detail)
    if detail == "page":
        title = "What changed, beyond the noise"
        yield Section(title, changed or (Prose("Nothing."),), link="What changed")
        yield Section("Still wrong", wrong, link="Still wrong")
        yield Section("The ladder, before and after", (*_ladders(diff), _largest(diff)), link="Ladder")
        yield Section("Operations", (_tallies(diff, "operation", diff.operations),), link="Operations")
        yield Section("Cases", (_tallies(diff, "case", diff.cases),), link="Cases")
    else:
        yield Section("", (*changed, *wrong))
        yield _largest(diff)
    if diff.choices:
        yield Section("Choices of experts", (Lines(tuple(choices(diff))),), link="Choices of experts")
    yield from part(detail, "Logits", _logits(diff, detail), link="Logits")
    if diff.left_out:
        yield from listed("Left out", diff.left_out, detail)
    yield from listed("Not covered", not_covered(diff), detail)
    environments = {"before": diff.before.environment, "after": diff.after.environment}
    yield from closing(detail, diff.golden, diff.limits, environments)


def _changed(diff: Diff, detail: Detail) -> Iterator[Finding]:
    """Status by status: on a screen what was mended first, elsewhere what was broken."""
    by_status = list(sections(diff))
    for section in by_status if detail == "screen" else sorted(by_status, key=lambda section: section.better):
        own = (_operations(section.operations, section.status, detail),) if section.operations else ()
        rest = Prose(f"{'and ' if own else ''}{section.inheritance}")
        yield Finding(section.status, body=(*own, rest) if section.inherited else own, better=section.better)


def _still_wrong(diff: Diff, detail: Detail) -> tuple[Block, ...]:
    operations, sentence = tuple(_by_kind(diff, diff.still_wrong)), Prose(_what_is_wrong(diff))
    body = (_operations(operations, "still wrong", detail), sentence) if operations else (sentence,)
    if detail == "page" or (detail == "screen" and not operations):
        return body
    return (Finding("still wrong" if detail == "screen" else "Still wrong", body=body),)


def _operations(operations: Sequence[Operation], label: str, detail: Detail) -> Table:
    """One line per operation: where, and the largest multiple before and after."""
    to, shown, rest = TO[detail], operations[: SHOWN[detail]], operations[SHOWN[detail] :]
    figures = [f"{o.before} {to} {o.after} x {o.unit}" for o in shown]
    also = f"and at {some([o.kind for o in rest], SHOWN['screen'])}" if rest else ""
    if detail == "screen":
        rows: list[tuple[Text, ...]] = [
            ((code(o.place), f"   ({o.extent})"), figure) for o, figure in zip(shown, figures, strict=True)
        ]
        return Table((), (*rows, *((also, ""),) * bool(rest)), label)
    rows = [(code(o.place), figure, o.extent) for o, figure in zip(shown, figures, strict=True)]
    heads = ("operation", f"x noise, before {to} after", "where")
    about = "The largest rms multiple of each operation"
    return Table(heads, (*rows, *((also, "", ""),) * bool(rest)), label, about)


def _ladders(diff: Diff) -> Iterator[Block]:
    """One ladder per precision, with both sides on it."""
    for precision, limits in diff.limits.items():
        measured = [
            Measured(
                f"{when}, {entry.mode}", side.rms_multiple, f"{side.tap} in {side.case}", side.rms_limit, kind
            )
            for entry in diff.largest
            if entry.precision == precision
            for when, kind, side in (("before", "before", entry.before), ("after", "port", entry.after))
        ]
        yield ladder(precision, unit(precision), limits, measured)


def _largest(diff: Diff) -> Table:
    rows = tuple(
        (e.precision, e.mode, _extreme(e.before), _extreme(e.after), allowed(e.after.rms_limit))
        for e in diff.largest
    )
    heads = ("precision", "mode", "largest rms multiple before", "after", *numbers("limit"))
    return Table(heads, rows, "largest multiples", "The multiple that is worst in view of its limit")


def _extreme(extreme: Extreme) -> Text:
    return number(extreme.rms_multiple), "  ", code(extreme.tap), f" in {extreme.case}"


def _tallies(diff: Diff, label: str, tallies: Mapping[str, Counts]) -> Table:
    rows = tuple(
        (name, *(f"{count:,}" if (count := counts.get(status)) else "" for status in diff.counts))
        for name, counts in tallies.items()
    )
    return Table((label, *numbers(*diff.counts)), rows, f"{label}s", "Comparisons by what became of them")


def _logits(diff: Diff, detail: Detail) -> Iterator[Block]:
    """The figures of either side, and whether its logits are within the criteria."""
    to = TO[detail]
    if diff.logits:
        both = ((e.precision, _logit_row(e.before), _logit_row(e.after)) for e in diff.logits)
        rows = tuple((p, *map(f" {to} ".join, zip(old, new, strict=True))) for p, old, new in both)
        heads = ("logits", *numbers("max abs", "max KL", "top-1 flips", "ties"))
        about = f"The port's own logits (forward), the worst of all cases, before {to} after"
        yield Table(heads, rows, "logits", about)
    before, after = diff.before.acceptance, diff.after.acceptance
    if before is not None and after is not None:
        said = f"{judged_by(after)}: ", outcome(before), f" {to} ", outcome(after)
        yield Prose((*said, f", {criteria(after)}") if detail == "page" else said)


def sections(diff: Diff) -> Iterator[Changed]:
    """The statuses that occur."""
    for status in ORDER:
        changes = [change for change in diff.changes if change.status == status]
        own = [change for change in changes if not _inherited(change)]
        rest = {change.tap for change in changes} - {change.tap for change in own}
        if changes:
            yield Changed(status, status in BETTER, tuple(_by_kind(diff, own)), len(rest))


def _by_kind(diff: Diff, changes: Sequence[Change]) -> Iterator[Operation]:
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


def _what_is_wrong(diff: Diff) -> str:
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


def _logit_row(logits: LogitFigures) -> tuple[str, ...]:
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
