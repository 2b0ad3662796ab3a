"""A diff as a page: the verdict, what changed and where, what is still wrong, the figures of both sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from harness.report import diff_summary as words
from harness.report.blocks import Block, Detail, Finding, Lines, Page, Prose, Section
from harness.report.diff_document import Counts, Diff, Extreme
from harness.report.diff_summary import Operation
from harness.report.pages import closing, criteria, judged_by, listed, outcome, part
from harness.report.pages.scales import Measured, ladder
from harness.report.tables import Style, Table, Text, code, numbers
from harness.report.wording import allowed, number, some, unit

SHOWN = {"screen": 6, "summary": 20, "page": 1000}
TO = {"screen": "->", "summary": "→", "page": "→"}
STYLES: dict[str, Style] = {"better": "good", "same": "plain", "worse": "bad", "mixed": "bad"}


def page(diff: Diff, detail: Detail) -> Page:
    """A diff as a person reads it."""
    word, said = words.headline(diff)
    golden = ("golden", f"{diff.golden.path}  {diff.golden.id[:12]}")
    model = ("model", diff.golden.model)
    sides = tuple(words.sides(diff))
    return Page(
        command="goldens diff",
        title=f"{diff.before.label} to {diff.after.label}",
        word=word,
        style=STYLES[diff.verdict],
        said=said,
        facts={"screen": (golden, *sides), "summary": (*sides, model), "page": (*sides, model, golden)}[detail],
        notes=tuple(words.notes(diff)),
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
        yield Section("Choices of experts", (Lines(tuple(words.choices(diff))),), link="Choices of experts")
    yield from part(detail, "Logits", _logits(diff, detail), link="Logits")
    if diff.left_out:
        yield from listed("Left out", diff.left_out, detail)
    yield from listed("Not covered", words.not_covered(diff), detail)
    sides = {"before": diff.before.environment, "after": diff.after.environment}
    yield from closing(detail, diff.golden, diff.limits, sides)


def _changed(diff: Diff, detail: Detail) -> Iterator[Finding]:
    """Status by status: on a screen what was mended first, elsewhere what was broken."""
    sections = list(words.sections(diff))
    for section in sections if detail == "screen" else sorted(sections, key=lambda section: section.better):
        found = (_operations(section.operations, section.status, detail),) if section.operations else ()
        rest = Prose(f"{'and ' if found else ''}{words.inheritance(section)}")
        yield Finding(section.status, body=(*found, rest) if section.inherited else found, better=section.better)


def _still_wrong(diff: Diff, detail: Detail) -> tuple[Block, ...]:
    found, sentence = tuple(words.operations(diff, diff.still_wrong)), Prose(words.still_wrong(diff))
    body = (_operations(found, "still wrong", detail), sentence) if found else (sentence,)
    if detail == "page" or (detail == "screen" and not found):
        return body
    return (Finding("still wrong" if detail == "screen" else "Still wrong", body=body),)


def _operations(found: Sequence[Operation], label: str, detail: Detail) -> Table:
    """One line per operation: where, and the largest multiple before and after."""
    to, shown, rest = TO[detail], found[: SHOWN[detail]], found[SHOWN[detail] :]
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
        sides = ((e.precision, words.logit_row(e.before), words.logit_row(e.after)) for e in diff.logits)
        rows = tuple((p, *map(f" {to} ".join, zip(old, new, strict=True))) for p, old, new in sides)
        heads = ("logits", *numbers("max abs", "max KL", "top-1 flips", "ties"))
        about = f"The port's own logits (forward), the worst of all cases, before {to} after"
        yield Table(heads, rows, "logits", about)
    before, after = diff.before.acceptance, diff.after.acceptance
    if before is not None and after is not None:
        said = f"{judged_by(after)}: ", outcome(before), f" {to} ", outcome(after)
        yield Prose((*said, f", {criteria(after)}") if detail == "page" else said)
