"""A check as a page: the verdict, what is wrong and where, then the figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.report import pages, wording
from harness.report.blocks import Block, Detail, Finding, Lines, Page, Prose, Section
from harness.report.document import Report
from harness.report.summary import forward_logits, groups, has_figures, logit_summary
from harness.report.tables import Span, Table, Text, code, linked, numbers, strong
from harness.report.wording import number

if TYPE_CHECKING:
    from harness.report.findings import Finding as Wrong

SHOWN_ON_SCREEN, SHOWN_IN_SUMMARY = 6, 20
HEAD = {
    "screen": ("golden", "port", "ran on", "mesh"),
    "summary": ("port", "model", "mesh"),
    "page": ("port", "model", "golden", "ran on", "mesh"),
}
TIES = (
    "A token that goes to other experts than in the golden is a tie where the noise of the scores explains it; "
    "its weights are not compared."
)


def page(report: Report, detail: Detail) -> Page:
    """A check as a person reads it."""
    word, said = wording.headline(report)
    return Page(
        command="goldens",
        title=f"{report.port} against {report.golden.model}",
        word=word,
        style="good" if word == "PASS" else "bad",
        said=said,
        facts=tuple(_head(report, detail)),
        notes=report.notes,
        body=tuple(_body(report, detail)),
    )


def _head(report: Report, detail: Detail) -> Iterator[tuple[str, Text]]:
    known = {
        "golden": f"{report.golden.path}  {report.golden.id[:12]}",
        "model": report.golden.model,
        "port": report.port,
        "ran on": pages.ran_on(report.environment),
        "mesh": wording.mesh_of(report),
    }
    yield from ((name, value) for name in HEAD[detail] if (value := known[name]) is not None)
    for precision, settings in report.environment["precision"].items() if detail == "screen" else ():
        x64 = "on" if settings["x64"] else "off"
        yield "in force", f"{precision}: x64 {x64}, matmul precision {settings['matmul_precision']}"


def _body(report: Report, detail: Detail) -> Iterator[Block]:
    on_page, wrong = detail == "page", tuple(_wrong(report, detail))
    if wrong:
        title = "What is wrong, and where" if on_page else ""
        yield Section(title, wrong, link="What is wrong")
    if on_page:
        from harness.report.pages import check_details as details  # what nothing else needs

        yield Section("The ladder", (*details.ladders(report), _figures(report)), link="Ladder")
        yield Section("Where: heat maps", tuple(details.maps(report)), link="Heat maps")
        yield Section("Cases", (details.cases(report),), link="Cases")
        logits: tuple[Block, ...] = tuple(details.logits(report))
    else:
        yield _figures(report)
        logits = tuple(_logits(report))
    if detail == "screen":
        yield from logits
    if any(r.choice is not None for r in report.results):
        from harness.report.choices import sentences  # of a dense model there are none

        said = sentences(report.results)
    else:
        said = ()
    if said:
        explained = (Prose(TIES),) if on_page else ()
        yield Section("Choices of experts", (*explained, Lines(said)), link="Choices of experts")
    acceptance = tuple(_acceptance(report, detail))
    yield from pages.part(detail, "Logits", (*acceptance, *logits) if on_page else acceptance, link="Logits")
    yield from pages.listed("Not covered", report.not_covered, detail)
    if detail == "summary":
        if worst := _worst_first(report):
            evidence = tuple(_finding(f, report, but="worst at") for f in worst[:SHOWN_IN_SUMMARY])
            yield Section("Evidence", evidence, folded=True)
        if logits:
            yield Section("Logits", logits, folded=True)
    yield from pages.closing(detail, report.golden, report.limits, {"ran on": report.environment})


def _wrong(report: Report, detail: Detail) -> Iterator[Block]:
    for broken in wording.uncompared(report):
        facts = (("expected", broken.expected or ""), ("found", broken.found or ""))
        yield Finding(broken.reason, wording.some(broken.taps), broken.where, facts)
    for sentence in wording.in_a_narrower_dtype(report):
        yield Prose(Span(sentence, "bad"), "finding")
    if report.verdict == "match":
        return
    from harness.report.agreement import agreement

    yield from _findings(report, detail)
    downstream = wording.inherited(report)
    if downstream is not None:
        yield Prose(downstream)
    yield from map(Prose, agreement(report))
    named = wording.looks_like(report)
    if named and detail == "screen":
        yield Prose((strong("looks like: "), "\n".join(named)))
    elif named:
        yield Prose((strong("looks like"), " ", *linked(named[0])))
        yield from (Prose(linked(line)) for line in named[1:])


def _findings(report: Report, detail: Detail) -> Iterator[Block]:
    """In data-flow order on a screen, worst first elsewhere; in a summary a table, its evidence further down."""
    from harness.report.findings import unexplained

    if detail == "screen":
        in_order = unexplained(report)
        yield from (_finding(f, report) for f in in_order[:SHOWN_ON_SCREEN])
        if len(in_order) > SHOWN_ON_SCREEN:
            yield Prose(f"also introduced at: {', '.join(f.kind for f in in_order[SHOWN_ON_SCREEN:])}")
    elif detail == "page":
        from harness.report.pages.check_details import worst_elements

        yield from (_finding(f, report, body=worst_elements(f, report)) for f in _worst_first(report))
    elif worst := _worst_first(report):
        rows = tuple(_finding_row(f, report) for f in worst[:SHOWN_IN_SUMMARY])
        heads = ("introduced at", "layers", "precisions", "x noise", "worst element")
        yield Table(heads, rows, rest=len(worst) - len(rows))


def _worst_first(report: Report) -> tuple[Wrong, ...]:
    """The findings, for which a check that passes needs no search."""
    if report.verdict == "match":
        return ()
    from harness.report.findings import worst_first

    return worst_first(report)


def _finding(finding: Wrong, report: Report, but: str = "", body: tuple[Block, ...] = ()) -> Finding:
    facts = tuple((label, text) for label, text in wording.facts(finding, report) if label != but)
    return Finding(wording.title(finding), wording.place(finding), wording.extent(finding), facts, body)


def _finding_row(finding: Wrong, report: Report) -> tuple[Text, ...]:
    worst = finding.worst
    how = "" if finding.located and not finding.since else wording.title(finding).removeprefix("introduced ") + " "
    return (
        (how, code(wording.place(finding))),
        f"{len(finding.taps)} of {finding.layers}" if finding.layers else "",
        ", ".join(finding.precisions),
        f"{number(worst.rms_multiple)} (limit {wording.allowed(worst.rms_limit)}, {worst.precision})",
        dict(wording.facts(finding, report)).get("worst at", ""),
    )


def _figures(report: Report) -> Table:
    rows = []
    for group in groups(report):
        worst, compared = group.worst, has_figures(group.worst)
        limits = (wording.allowed(worst.rms_limit), wording.allowed(group.worst_max.max_limit))
        figures = (worst.rms_multiple, group.worst_max.max_multiple, group.rel_rms)
        rms, largest, relative = (number(x) if compared else "" for x in figures)
        at: Text = (code(worst.tap), f" in {worst.case}") if compared else "nothing compared"
        matched = f"{group.matched:,} of {group.compared:,}"
        limit = ", ".join(filter(None, limits))
        rows.append((group.precision, group.mode, matched, rms, largest, limit, relative, at))
    return Table(
        ("precision", "mode", *numbers("match", "rms x", "max x", "limits", "rel. rms"), "largest rms at"),
        tuple(rows),
        "largest multiples",
        "Largest figures by precision and mode; the limits are those of rms and max where they are",
    )


def _logits(report: Report) -> Iterator[Table]:
    """A line for each precision at which there are logits."""
    by_precision = forward_logits(report.results)
    rows = tuple((p, *pages.figures_of(logit_summary(results)).values()) for p, results in by_precision.items())
    if rows:
        yield Table(("logits", *numbers(*pages.LOGITS)), rows, "logits")


def _acceptance(report: Report, detail: Detail) -> Iterator[Prose]:
    acceptance = report.acceptance
    if acceptance is not None:
        figures = f"{'   ' if detail == 'screen' else ', '}{pages.criteria(acceptance)}"
        yield Prose((f"{pages.judged_by(acceptance)}: ", pages.outcome(acceptance), figures))
        if acceptance.generation:
            yield Prose(f"generation: {acceptance.generation}", "note")
        if acceptance.remark:
            yield Prose(acceptance.remark, "note")
