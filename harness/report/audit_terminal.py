"""An audit as a person reads it in a terminal: the score, the blind spots with their reasons, the cases needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.report import audit_summary as words
from harness.report.audit_document import Audit
from harness.report.audit_summary import Unseen
from harness.report.layout import print_parts, spaced, table

COLOURS = {"SEES": "bold green", "BLIND": "bold red"}


def print_audit(audit: Audit, console: Console) -> None:
    print_parts(_parts(audit), console)


def _parts(audit: Audit) -> Iterator[RenderableType]:
    grid = Table.grid(padding=(0, 2))
    grid.add_row("golden", Text(f"{audit.golden.path}  {audit.golden.id[:12]}"))
    grid.add_row("ran on", Text(words.ran_on(audit)))
    for precision, score in audit.scores.items():
        grid.add_row("sanity", f"{precision}: {words.sanity(score)}")
    yield grid
    word, of = words.headline(audit)
    yield spaced(Text.assemble((word, COLOURS[word]), f"  {of}"))
    yield spaced(_scores(audit))
    yield spaced(_families(audit))
    yield from _section("blind spots: caught at no precision", _lines(words.blind_spots(audit)))
    for precision in audit.scores:
        yield from _section(f"not caught at {precision}", _lines(words.missed(audit, precision)))
        unnamed = ((mutant.id, text) for mutant, text in words.unnamed(audit, precision))
        yield from _section(f"caught at {precision}, but not named", unnamed)
    yield from _section("weakest catches", _weakest(audit))
    yield from _section("equivalent or refused", _lines(words.no_bugs(audit)))
    needed, spare = words.cases(audit)
    yield spaced(Text(f"cases: {needed}\n{spare}"))
    yield spaced(Text("\n".join(["not covered", *(f"  {line}" for line in audit.not_covered)])))


def _scores(audit: Audit) -> Table:
    grid = table("mutants", *audit.scores)
    for label, cells in words.score_rows(audit):
        grid.add_row(label, *cells)
    return grid


def _families(audit: Audit) -> Table:
    grid = table("family: caught, named, of", *audit.scores)
    for family in words.families(audit):
        grid.add_row(Text(family.name), *(", ".join(map(str, tally)) for tally in family.tallies))
    return grid


def _lines(found: Iterable[Unseen]) -> Iterator[tuple[str, str]]:
    return ((unseen.mutant.id, words.why(unseen)) for unseen in found)


def _weakest(audit: Audit) -> Iterator[tuple[str, str]]:
    for precision in audit.scores:
        found = words.weakest(audit, precision)
        yield precision, ", ".join(f"{name} {margin:.2g} x the limit" for margin, name in found)


def _section(title: str, rows: Iterable[tuple[str, str]]) -> Iterator[RenderableType]:
    grid = Table.grid(padding=(0, 2))
    for name, text in rows:
        grid.add_row(Text(f"  {name}"), Text(text))
    if grid.row_count:
        yield spaced(Group(Text(title), grid))
