"""The diff as a person reads it in a terminal: verdict, what changed and where, what is still wrong, figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.report.diff_document import Diff, Extreme
from harness.report.diff_summary import (
    Operation,
    Section,
    choices,
    headline,
    inheritance,
    logit_row,
    not_covered,
    notes,
    operations,
    sections,
    sides,
    still_wrong,
)
from harness.report.document import Acceptance
from harness.report.layout import print_parts, spaced, table
from harness.report.wording import allowed, number, some

SHOWN_KINDS = 6
COLOURS = {"better": "bold green", "same": "bold", "worse": "bold red", "mixed": "bold red"}
ARROW = "->"


def print_diff(diff: Diff, console: Console) -> None:
    print_parts(_parts(diff), console)


def _parts(diff: Diff) -> Iterator[RenderableType]:
    yield _head(diff)
    yield Text()
    word, counts = headline(diff)
    yield Text.assemble((word, COLOURS[diff.verdict]), f"  {counts}")
    for section in sections(diff):
        yield spaced(_changed(section), indent=2)
    yield spaced(_still_wrong(diff), indent=2)
    yield _largest(diff)
    if diff.logits:
        yield _logits(diff)
    if diff.choices:
        yield spaced(Text("\n".join(["choices of experts", *(f"  {line}" for line in choices(diff))])))
    before, after = diff.before.acceptance, diff.after.acceptance
    if before is not None and after is not None:
        yield spaced(_acceptance(before, after))
    left_out = ("left out, since only one side has it", diff.left_out)
    for title, lines in (left_out, ("not covered", not_covered(diff))):
        if lines:
            yield spaced(Text("\n".join([title, *(f"  {line}" for line in lines)])))


def _head(diff: Diff) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_row("golden", Text(f"{diff.golden.path}  {diff.golden.id[:12]}"))
    for when, side in sides(diff):
        grid.add_row(when, Text(side))
    for note in notes(diff):
        grid.add_row("note", Text(note))
    return grid


def _changed(section: Section) -> RenderableType:
    """One status: its operations one by one, and what only inherited from upstream as a number."""
    title = (section.status, "bold green" if section.better else "bold red")
    if not section.operations:
        return Text.assemble(title, f"  {inheritance(section)}")
    grid = _operations(title, section.operations)
    return Group(grid, Text(f"and {inheritance(section)}")) if section.inherited else grid


def _still_wrong(diff: Diff) -> RenderableType:
    found = tuple(operations(diff, diff.still_wrong))
    sentence = Text(still_wrong(diff))
    return Group(_operations(("still wrong", "bold red"), found), sentence) if found else sentence


def _operations(title: tuple[str, str], found: Sequence[Operation]) -> Table:
    """One line per operation: where, and the largest multiple before and after."""
    grid = Table.grid(padding=(0, 2))
    heading = Text(*title)
    for o in found[:SHOWN_KINDS]:
        grid.add_row(
            heading,
            Text.assemble((o.place, "bold"), f"   ({o.extent})"),
            f"{o.before} {ARROW} {o.after} x {o.unit}",
        )
        heading = Text()
    if len(found) > SHOWN_KINDS:
        rest = some([o.kind for o in found[SHOWN_KINDS:]], SHOWN_KINDS)
        grid.add_row(heading, f"and at {rest}", "")
    return grid


def _largest(diff: Diff) -> Padding:
    figures = table("precision", "mode", "largest rms multiple before", "after", "limit")
    for entry in diff.largest:
        limit = allowed(entry.after.rms_limit)
        figures.add_row(entry.precision, entry.mode, _extreme(entry.before), _extreme(entry.after), limit)
    return spaced(figures)


def _extreme(extreme: Extreme) -> str:
    return f"{number(extreme.rms_multiple)}  {extreme.tap} in {extreme.case}"


def _logits(diff: Diff) -> Padding:
    figures = table("logits", "max abs", "max KL", "top-1 flips", "ties")
    for entry in diff.logits:
        old, new = entry.before, entry.after
        figures.add_row(
            entry.precision, *(f"{a} {ARROW} {b}" for a, b in zip(logit_row(old), logit_row(new), strict=True))
        )
    return spaced(figures)


def _acceptance(before: Acceptance, after: Acceptance) -> Text:
    def word(acceptance: Acceptance) -> tuple[str, str]:
        return ("pass", "green") if acceptance.passed else ("fail", "red")

    return Text.assemble(f"acceptance at {after.precision}: ", word(before), f" {ARROW} ", word(after))
