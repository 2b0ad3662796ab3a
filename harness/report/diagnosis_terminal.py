"""A diagnosis as a person reads it in a terminal: evidence first, then the name."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from harness.report.diagnosis import Diagnosis, Operation, Suspect, suspect_name, verdict_line
from harness.report.layout import print_parts, spaced
from harness.report.wording import some

NOTHING_INTRODUCED = "every operation is right on golden inputs: small errors add up, and no formula is wrong"

NOT_REPLAYED = "wrong, but not where it was replayed here: no known bug can be held against it"


def print_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    print_parts(_parts(diagnosis), console)


def _parts(diagnosis: Diagnosis) -> Iterator[RenderableType]:
    head = Table.grid(padding=(0, 2))
    head.add_row("golden", Text(f"{diagnosis.golden.path}  {diagnosis.golden.id[:12]}"))
    head.add_row("port", Text(diagnosis.port))
    if diagnosis.precision is not None:
        head.add_row("looked at", Text(f"{diagnosis.precision}, {', '.join(diagnosis.cases)}"))
    for fact in diagnosis.facts:
        head.add_row(fact.topic, Text(fact.text))
    yield head
    if diagnosis.verdict == "match":
        said = f"  nothing to diagnose: forward and replay match at {', '.join(diagnosis.precisions)}"
        yield spaced(Text.assemble(("PASS", "bold green"), said))
        yield from (Text(f"  not covered: {line}") for line in diagnosis.not_covered)
    elif not (diagnosis.operations or diagnosis.unexplained):
        yield spaced(Text.assemble(("FAIL", "bold red"), "  ", NOTHING_INTRODUCED))
    for operation in diagnosis.operations:
        yield spaced(_operation(operation))
    if diagnosis.unexplained:
        yield spaced(Text.assemble(("FAIL", "bold red"), f"  {some(diagnosis.unexplained, 8)}: {NOT_REPLAYED}"))


def _operation(operation: Operation) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_row(Text("introduced at", "bold red"), Text(some(operation.taps, 8), "bold"))
    for fact in operation.facts:
        grid.add_row(fact.topic, Text(fact.text))
    label = "looks like" if operation.named else "no name"
    grid.add_row(Text(label, "bold"), Text(verdict_line(operation, operation.precision), "bold"))
    for suspect in operation.named:
        for label, text in _details(suspect):
            grid.add_row(label, Text(text))
    for suspect in operation.others:
        reason = f", {suspect.remark}" if suspect.remark else ""
        share = f"explains {suspect.explained:.1%} of the error{reason}"
        grid.add_row("rather not", Text(f"{suspect_name(suspect)}: {share}"))
    return grid


def _details(suspect: Suspect) -> Iterator[tuple[str, str]]:
    for wrong, right in zip(suspect.wrong, suspect.right, strict=True):
        yield "  wrong", wrong
        yield "  right", right
    yield "  right in", suspect.line
    if suspect.remark:
        yield "  here", suspect.remark
    for url in suspect.seen[:2]:
        yield "  seen in", url
