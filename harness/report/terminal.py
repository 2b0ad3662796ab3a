"""A page in a terminal, or as plain text: lines of at most so many characters, and no blanks at their ends."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich import table
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.text import Text

from harness.report import tables
from harness.report.blocks import Block, Facts, Finding, Ladder, Legend, Lines, Page, Prose, Section
from harness.report.tables import Table, cells, spans, words
from harness.report.wording import escaped

STYLES = {"strong": "bold", "good": "bold green", "bad": "bold red", "quiet": "dim", "code": "bold"}
INDENT, GAP = 2, 2
LONG = 16  # what a column of long text has at least


def print_page(page: Page, console: Console) -> None:
    console.print(_Visible(Group(*_parts(page))), highlight=False)


def text(page: Page, width: int) -> str:
    """The same as plain text."""
    out = io.StringIO()
    print_page(page, Console(file=out, width=width, color_system=None, markup=False, emoji=False))
    return out.getvalue().removesuffix("\n")


@dataclass(frozen=True)
class _Visible:
    """Content whose characters all show: a name from outside does not move the cursor or change colours."""

    content: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        for line in Segment.split_lines(console.render(self.content, options)):
            while line and not line[-1].text.strip():
                line.pop()
            for place, (said, style, _) in enumerate(line, 1):
                shown = said.rstrip() if place == len(line) else said
                yield Segment("".join(c if c.isprintable() else escaped(c) for c in shown), style)
            yield Segment.line()


def _parts(page: Page) -> Iterator[RenderableType]:
    facts = (*page.facts, *(("note", note) for note in page.notes))
    if facts:
        yield _facts(Facts(facts))
    if page.word or page.said:
        yield Text()
        yield Text.assemble((page.word, STYLES.get(page.style, "bold")), "  " * bool(page.word), page.said)
    yield from _spaced(page.body)


def _spaced(body: Iterable[Block], indent: int = 0) -> Iterator[RenderableType]:
    """Blocks with an empty line before each; a note stands right under what it is about."""
    for block in body:
        note = isinstance(block, Prose) and block.style == "note"
        if isinstance(block, Section) and not block.title:
            yield from _spaced(block.body, indent + INDENT)
        else:
            yield Padding(_block(block), (0 if note else 1, 0, 0, indent + INDENT * note))


def _block(block: Block) -> RenderableType:
    match block:
        case Prose():
            return _text(block.text)
        case Lines():
            return Group(*map(_text, block.lines))
        case Facts():
            return _facts(block)
        case Table():
            return _Table(block)
        case Legend():
            return Text(", ".join(_text(step.text).plain for step in block.steps))
        case Ladder():
            return _Table(block.table)
        case Finding():
            return _finding(block)
        case Section():
            title = block.title[:1].lower() + block.title[1:]
            return Group(
                Text(f"{title}: {block.note}" if block.note else title),
                Padding(Group(*map(_block, block.body)), (0, 0, 0, INDENT)),
            )


def _text(text: tables.Text) -> Text:
    return Text.assemble(*((span.text, STYLES.get(span.style, "")) for span in spans(text)))


def _facts(facts: Facts) -> table.Table:
    grid = table.Table.grid(padding=(0, GAP))
    for label, value in facts.rows:
        grid.add_row(Text(label), _facts(value) if isinstance(value, Facts) else _text(value))
    return grid


def _finding(finding: Finding) -> RenderableType:
    """The title beside the place, or beside what comes first where there is none."""
    grid = table.Table.grid(padding=(0, GAP))
    title, rest = Text(finding.title, STYLES["good" if finding.better else "bad"]), finding.body
    if finding.place:
        extent = f"   ({finding.extent})" if finding.extent else ""
        grid.add_row(title, Text.assemble((finding.place, "bold"), extent))
    elif rest:
        grid.add_row(title, _block(rest[0]))
        rest = rest[1:]
    for label, value in finding.facts:
        grid.add_row(Text(label), _text(value))
    return Group(grid, *map(_block, rest))


@dataclass(frozen=True)
class _Table:
    """A table without lines, as wide apart as there is room for; without heads, a grid."""

    content: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
        yield self._drawn(console, options)
        if self.content.rest:
            yield Text(f"and {self.content.rest:,} more, in the JSON report")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self._drawn(console, options))

    def _drawn(self, console: Console, options: ConsoleOptions) -> table.Table:
        wide = self._spaced(GAP)
        fits = Measurement.get(console, options.update(max_width=10_000), wide).maximum <= options.max_width
        return wide if fits or self._wraps else self._spaced(1)

    @property
    def _wraps(self) -> bool:
        return any(column.kind == "long" for column in self.content.columns)

    def _spaced(self, gap: int) -> table.Table:
        columns = self.content.columns
        drawn = table.Table(box=None, padding=(0, gap, 0, 0), header_style="dim", show_header=bool(columns))
        for column in columns:
            drawn.add_column(
                Text(column.name),
                overflow="fold",
                justify="right" if column.kind in ("number", "narrow") else "left",
                no_wrap=self._wraps and column.kind != "long",
                min_width=LONG if column.kind == "long" else None,
            )
        for row in self.content.rows:
            drawn.add_row(*(_text(words(cell)) for cell in cells(row)))
        return drawn
