"""A diagnosis as a page: for every wrong operation the evidence, then the name."""

from __future__ import annotations

from collections.abc import Iterator

from harness.report.blocks import Block, Detail, Finding, Page, Prose
from harness.report.diagnosis import Diagnosis, Operation, Suspect, suspect_name, verdict_line
from harness.report.pages import closing, listed, part
from harness.report.tables import Text, linked, strong
from harness.report.wording import counted, some

SHOWN_TAPS, SHOWN_THREADS = 8, 2
NOTHING_INTRODUCED = "every operation is right on golden inputs: small errors add up, and no formula is wrong"
NOT_REPLAYED = "wrong, but not where it was replayed here: no known bug can be held against it"


def page(diagnosis: Diagnosis, detail: Detail) -> Page:
    """A diagnosis as a person reads it."""
    golden = diagnosis.golden
    facts: list[tuple[str, Text]] = [("golden", f"{golden.path}  {golden.id[:12]}"), ("port", diagnosis.port)]
    if diagnosis.precision is not None:
        facts.append(("looked at", f"{diagnosis.precision}, {', '.join(diagnosis.cases)}"))
    passed = diagnosis.verdict == "match"
    return Page(
        command="goldens diagnose",
        title=f"{diagnosis.port} against {golden.model}",
        word="PASS" if passed else "FAIL",
        style="good" if passed else "bad",
        said=_said(diagnosis),
        facts=(*facts, *((fact.topic, fact.text) for fact in diagnosis.facts)),
        notes=(),
        body=(
            *part(detail, "What is wrong, and where", _wrong(diagnosis), link="What is wrong"),
            *listed("Not covered", diagnosis.not_covered, detail),
            *closing(detail, golden, {}, {}),
        ),
    )


def _said(diagnosis: Diagnosis) -> str:
    if diagnosis.verdict == "match":
        return f"nothing to diagnose: forward and replay match at {', '.join(diagnosis.precisions)}"
    if not diagnosis.operations:
        return "no operation can be named" if diagnosis.unexplained else NOTHING_INTRODUCED
    named = sum(bool(operation.named) for operation in diagnosis.operations)
    return f"{counted(len(diagnosis.operations), 'wrong operation')}, {named} with a name"


def _wrong(diagnosis: Diagnosis) -> Iterator[Block]:
    for operation in diagnosis.operations:
        yield Finding("introduced at", some(operation.taps, SHOWN_TAPS), facts=tuple(_facts(operation)))
    if diagnosis.unexplained:
        yield Prose((strong(some(diagnosis.unexplained, SHOWN_TAPS)), f": {NOT_REPLAYED}"), "finding")


def _facts(operation: Operation) -> Iterator[tuple[str, Text]]:
    """What was measured, what it looks like, and what came near."""
    yield from ((fact.topic, fact.text) for fact in operation.facts)
    yield "looks like" if operation.named else "no name", strong(verdict_line(operation, operation.precision))
    for suspect in operation.named:
        yield from _known(suspect)
    for suspect in operation.others:
        reason = f", {suspect.remark}" if suspect.remark else ""
        yield "rather not", f"{suspect_name(suspect)}: explains {suspect.explained:.1%} of the error{reason}"


def _known(suspect: Suspect) -> Iterator[tuple[str, Text]]:
    for wrong, right in zip(suspect.wrong, suspect.right, strict=True):
        yield "  wrong", wrong
        yield "  right", right
    yield "  right in", suspect.line
    if suspect.remark:
        yield "  here", suspect.remark
    yield from (("  seen in", linked(url)) for url in suspect.seen[:SHOWN_THREADS])
