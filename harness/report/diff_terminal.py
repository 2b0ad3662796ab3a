"""The diff as a person reads it in a terminal: verdict, what changed and where, what is still wrong, figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.difference import BETTER, STATUSES, Change, Outcome, Status
from harness.report.diff_document import Diff, Extreme, LogitFigures
from harness.report.document import Acceptance
from harness.report.findings import READABLE
from harness.report.layout import counted, folded, number, some, spaced, table
from harness.taps import kind_of

SHOWN_KINDS = 6
COLOURS = {"better": "bold green", "same": "bold", "worse": "bold red", "mixed": "bold red"}
# What the fix mended first, then what it broke.
ORDER: tuple[Status, ...] = ("fixed", "improved", "gained", "broken", "worse", "lost")
ARROW = "->"


def print_diff(diff: Diff, console: Console) -> None:
    console.print(Group(*_parts(diff)), highlight=False)


def _parts(diff: Diff) -> Iterator[RenderableType]:
    yield _head(diff)
    yield Text()
    yield _verdict(diff)
    for status in ORDER:
        changes = [change for change in diff.changes if change.status == status]
        if changes:
            yield spaced(_changed(diff, status, changes), indent=2)
    yield spaced(_still_wrong(diff), indent=2)
    yield _largest(diff)
    if diff.logits:
        yield _logits(diff)
    before, after = diff.before.acceptance, diff.after.acceptance
    if before is not None and after is not None:
        yield spaced(_acceptance(before, after))
    for title, lines in (("left out, since only one side has it", diff.left_out), ("not covered", _missed(diff))):
        if lines:
            yield spaced(Text("\n".join([title, *(f"  {line}" for line in lines)])))


def _head(diff: Diff) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_row("golden", f"{diff.golden.path}  {diff.golden.id[:12]}")
    for when, side in (("before", diff.before), ("after", diff.after)):
        commit = f"  commit {side.git[:12]}" if side.git else ""
        port = f"  {side.port}" if side.port != side.label else ""
        grid.add_row(when, f"{side.label}{port}{commit}")
    for note in _notes(diff):
        grid.add_row("note", note)
    return grid


def _notes(diff: Diff) -> Iterator[str]:
    shared = [note for note in diff.before.notes if note in diff.after.notes]
    yield from shared
    for when, side in (("before", diff.before), ("after", diff.after)):
        yield from (f"{when}: {note}" for note in side.notes if note not in shared)
    yield from diff.notes


def _missed(diff: Diff) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*diff.after.not_covered, *diff.before.not_covered]))


def _verdict(diff: Diff) -> Text:
    total, cases = sum(diff.counts.values()), len(diff.cases)
    counts = ", ".join(
        f"{diff.counts[status]:,} {status}"
        for status in STATUSES
        if diff.counts[status] or status not in ("lost", "gained")
    )
    return Text.assemble(
        (diff.verdict.upper(), COLOURS[diff.verdict]),
        f"  {counts}   ({counted(total, 'comparison')}, {counted(cases, 'case')})",
    )


def _changed(diff: Diff, status: Status, changes: Sequence[Change]) -> RenderableType:
    """One status: its operations one by one, and what only inherited from upstream as a number."""
    own = [change for change in changes if not _inherited(change)]
    rest = {change.tap for change in changes} - {change.tap for change in own}
    title = (status, "bold green" if status in BETTER else "bold red")
    inherited = f"{counted(len(rest), 'tap')} downstream, by inheritance alone"
    if not own:
        return Text.assemble(title, f"  {inherited}")
    grid = _operations(diff, title, own)
    return Group(grid, Text(f"and {inherited}")) if rest else grid


def _still_wrong(diff: Diff) -> RenderableType:
    after = diff.after
    if not after.wrong:
        return Text("nothing is wrong after")
    first = after.first_divergence
    assert first is not None
    start = f"{first.tap} (case {first.case}, {first.precision})"
    if not diff.still_wrong:
        return Text(
            f"still wrong: {counted(after.wrong, 'comparison')}, yet no operation on golden inputs; small errors "
            f"add up,\nfirst beyond the limit at {start}"
        )
    grid = _operations(diff, ("still wrong", "bold red"), diff.still_wrong)
    return Group(grid, Text(f"which starts at {start}; {counted(after.wrong, 'comparison')} in all"))


def _operations(diff: Diff, title: tuple[str, str], changes: Sequence[Change]) -> Table:
    """One line per kind of tap: where, and the largest multiple before and after."""
    kinds: dict[str, list[Change]] = {}
    for change in changes:
        kinds.setdefault(kind_of(change.tap), []).append(change)
    grid = Table.grid(padding=(0, 2))
    heading = Text(*title)
    for kind, group in list(kinds.items())[:SHOWN_KINDS]:
        # Replay speaks about the operation alone; float32 multiples say more to a person than half-ulps.
        group = [change for change in group if change.mode == "replay"] or group
        taps = list(dict.fromkeys(change.tap for change in group))
        layers = sum(kind_of(name) == kind for name in diff.taps if name.startswith("layers."))
        worst = max(group, key=lambda change: (change.precision == READABLE, _size(change)))
        where = f"in {len(taps)} of {layers} layers, " if layers else ""
        precisions = ", ".join(dict.fromkeys(change.precision for change in group))
        grid.add_row(
            heading,
            Text.assemble((folded(taps, layers), "bold"), f"   ({where}{worst.mode}; {precisions})"),
            f"{_figure(worst.before)} {ARROW} {_figure(worst.after)} x {_noise(worst.precision)}",
        )
        heading = Text()
    if len(kinds) > SHOWN_KINDS:
        rest = some(list(kinds)[SHOWN_KINDS:], SHOWN_KINDS)
        grid.add_row(heading, f"and at {rest}", "")
    return grid


def _inherited(change: Change) -> bool:
    """Whether the side that is wrong (before a fix, after a break) only inherited its error."""
    if change.before is None or change.after is None:
        return False
    wrong = change.before if change.status in ("fixed", "improved") else change.after
    return wrong.verdict == "inherited"


def _size(change: Change) -> float:
    sides = [side for side in (change.before, change.after) if side is not None]
    return max(float("inf") if side.rms_multiple is None else side.rms_multiple for side in sides)


def _figure(side: Outcome | None) -> str:
    if side is None:
        return "not compared"
    return side.verdict if side.rms_multiple is None else number(side.rms_multiple)


def _noise(precision: str) -> str:
    return "half an ulp" if precision == "float64" else f"PyTorch's own {precision} error"


def _largest(diff: Diff) -> Padding:
    figures = table("precision", "mode", "largest rms multiple before", "after", "limit")
    for entry in diff.largest:
        limit = f"{diff.limits[entry.precision].rms:g}"
        figures.add_row(entry.precision, entry.mode, _extreme(entry.before), _extreme(entry.after), limit)
    return spaced(figures)


def _extreme(extreme: Extreme) -> str:
    return f"{number(extreme.rms_multiple)}  {extreme.tap} in {extreme.case}"


def _logits(diff: Diff) -> Padding:
    figures = table("logits", "max abs", "max KL", "top-1 flips", "ties")
    for entry in diff.logits:
        old, new = entry.before, entry.after
        figures.add_row(entry.precision, *(f"{a} {ARROW} {b}" for a, b in zip(_row(old), _row(new), strict=True)))
    return spaced(figures)


def _row(logits: LogitFigures) -> tuple[str, ...]:
    flips = f"{logits.flips:,} of {logits.positions:,}"
    return number(logits.max_abs), number(logits.max_kl), flips, f"{logits.ties:,}"


def _acceptance(before: Acceptance, after: Acceptance) -> Text:
    def word(acceptance: Acceptance) -> tuple[str, str]:
        return ("pass", "green") if acceptance.passed else ("fail", "red")

    return Text.assemble(f"acceptance at {after.precision}: ", word(before), f" {ARROW} ", word(after))
