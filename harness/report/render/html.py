"""A page for a browser that stands alone: one file, no script, no font and no request from anywhere else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jinja2
from harness.report.blocks.inline import Text, spans
from harness.report.pages.scale import COLOURS, FIRST_WITH_DARK_TEXT

from harness.report.blocks.page import Page
from harness.report.blocks.table import Cell, Column


def html(page: Page) -> str:
    """The page. What a block becomes is in `templates/blocks.html.jinja`, its look in `style.css`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.report.render"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(spans=spans, block=lambda block: type(block).__name__, cells=_cells)
    colours = [(colour, "#000" if n >= FIRST_WITH_DARK_TEXT else "#fff") for n, colour in enumerate(COLOURS)]
    return environment.get_template("page.html.jinja").render(page=page, colours=colours) + "\n"


def _cells(row: Sequence[Text | Cell], columns: Sequence[Column]) -> Iterator[tuple[Text | Cell, str]]:
    """The cells after the first, each with the kind of its column."""
    place = 1
    for cell in row[1:]:
        yield cell, columns[place].kind if columns else "text"
        place += cell.columns if isinstance(cell, Cell) else 1
