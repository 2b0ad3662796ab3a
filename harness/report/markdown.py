"""A page as a GitHub step summary: nothing in it that GitHub would act on, and never larger than GitHub takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from harness.report.blocks import Block, Facts, Finding, Ladder, Legend, Lines, Page, Prose, Section
from harness.report.tables import Cell, Row, Span, Table, Text, cells, spans, words
from harness.report.wording import escaped

MAX_BYTES = 1024 * 1024  # GitHub drops a step summary that is larger, whole
SHOWN_LINES, SHOWN_CHARACTERS = 50, 300
# Outside a word of plain text: anything that Markdown, HTML or GitHub's own links could act on.
ACTIVE = r"[^\w\s.,;:/()=+%'→-]|_(?!\w)|(?<!\w)_|(?<=www)\.|:(?=//)|^[-+=]|^\d+(?=[.)](?:\s|$))"
CUT = "\n*Cut to the size that GitHub shows; everything is in the JSON report.*\n"


def markdown(page: Page) -> str:
    """The summary, never larger than GitHub takes."""
    return fitted(_parts(page))


def fitted(parts: Iterable[str]) -> str:
    """As many parts as GitHub takes, and a word where some had to go."""
    written = ""
    for part in parts:
        if len((written + part + CUT).encode()) > MAX_BYTES:
            return written + CUT
        written += part
    return written


def _parts(page: Page) -> Iterator[str]:
    who = ", ".join(f"{text(label)} {code(_plain(value))}" for label, value in page.facts)
    yield f"## {page.command}{f': {page.word}' if page.word else ''}\n\n{text(page.said)}: {who}\n"
    yield from (f"\n> {text(note)}\n" for note in page.notes)
    yield from (f"\n{_block(block)}" for block in page.body)


def _block(block: Block) -> str:
    match block:
        case Prose():
            return f"{'> ' * (block.style == 'note')}{inline(block.text)}\n"
        case Lines():
            return _list([inline(line) for line in block.lines])
        case Facts():
            return _list([_fact(label, value) for label, value in block.rows])
        case Table():
            return _table(block)
        case Legend():
            return f"{', '.join(inline(step.text) for step in block.steps)}\n"
        case Ladder():
            return _table(block.table)
        case Finding():
            return _finding(block)
        case Section():
            return _section(block)


def _fact(label: str, value: Text | Facts, indent: str = "") -> str:
    if not isinstance(value, Facts):
        return f"{text(label)}: {inline(value)}"
    inner = "".join(f"\n{indent}  - {_fact(*row, f'{indent}  ')}" for row in value.rows)
    return f"{text(label)}:{inner}"


def _finding(finding: Finding) -> str:
    """What has no place of its own is the heading of what follows."""
    title = f"### {text(finding.title)}\n"
    if finding.place:
        extent = f" ({text(finding.extent)})" if finding.extent else ""
        title = f"**{text(finding.title)}** {code(finding.place)}{extent}\n"
    facts = [_block(Facts(finding.facts))] if finding.facts else []
    return "\n".join([title, *facts, *map(_block, finding.body)])


def _section(section: Section) -> str:
    title = f"{text(section.title)}{f': {text(section.note)}' if section.note else ''}"
    body = "\n".join(map(_block, section.body))
    if section.folded is None:
        return f"### {title}\n\n{body}" if section.title else body
    return f"<details{'' if section.folded else ' open'}><summary>{title}</summary>\n\n{body}\n</details>\n"


def _list(lines: Sequence[str]) -> str:
    """A list, cut where it is long."""
    more = len(lines) - SHOWN_LINES
    cut = [f"and {more} more, in the JSON report"] if more > 0 else []
    return "".join(f"- {line}\n" for line in [*lines[:SHOWN_LINES], *cut])


def _table(table: Table) -> str:
    """The same as a table; without heads, as rows under empty ones."""
    rows = [_cells(row) for row in table.rows[:SHOWN_LINES]]
    heads = [text(column.name) for column in table.columns] or [""] * len(rows[0])
    lines = "".join(f"| {' | '.join(line)} |\n" for line in [heads, ["---"] * len(heads), *rows])
    more = table.rest + len(table.rows) - len(rows)
    return f"{lines}\nand {more} more, in the JSON report\n" if more else lines


def _cells(row: Row) -> list[str]:
    """Those of a row; one that spans several has empty ones beside it."""
    written = []
    for cell in cells(row):
        written += [inline(words(cell)), *[""] * (cell.columns - 1 if isinstance(cell, Cell) else 0)]
    return written


def inline(content: Text) -> str:
    """Text in its styles; blanks between the parts stay."""
    parts = [(span, _styled(span)) for span in spans(content)]
    return re.sub(" +", " ", "".join(f"{_blank(s.text[:1])}{x}{_blank(s.text[-1:])}" for s, x in parts)).strip()


def _blank(character: str) -> str:
    return " " if character.isspace() else ""


def _styled(span: Span) -> str:
    if span.style == "code":
        return code(span.text)
    if span.style == "link":
        return f"<{span.text}>"
    return f"**{text(span.text)}**" if span.style in ("strong", "good", "bad") else text(span.text)


def _plain(content: Text) -> str:
    return "".join(span.text for span in spans(content))


def text(outside: str) -> str:
    """Text from outside, shortened, as it reads: what Markdown or HTML would act on becomes an entity.

    An entity is never syntax in CommonMark, and GitHub's tables do not cut at one.
    """
    plain = " ".join(_shortened(outside).split())
    return re.sub(ACTIVE, _entity, plain)


def code(outside: str) -> str:
    """The same as code."""
    plain = " ".join(_shortened(outside).split())
    if re.fullmatch(r"[\w.*:/, ()+=-]+", plain):
        return f"`{plain}`"
    return f"<code>{re.sub(r'[^A-Za-z0-9 ]', _entity, plain)}</code>"


def _entity(match: re.Match[str]) -> str:
    return "".join(f"&#{ord(character)};" for character in match.group())


def _shortened(outside: str) -> str:
    if len(outside) > SHOWN_CHARACTERS:
        outside = outside[: SHOWN_CHARACTERS - 3] + "..."
    return "".join(c if c.isprintable() or c.isspace() else escaped(c) for c in outside)
