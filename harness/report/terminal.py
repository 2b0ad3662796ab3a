"""The report as a person reads it in a terminal: the verdict, what is wrong and where, then the figures."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.report import choices
from harness.report.agreement import agreement
from harness.report.document import Acceptance, Report
from harness.report.findings import Finding, unexplained
from harness.report.layout import print_parts, spaced, table
from harness.report.summary import forward_logits, groups, has_figures, logit_summary
from harness.report.wording import (
    Uncompared,
    allowed,
    between,
    criteria,
    extent,
    facts,
    headline,
    in_a_narrower_dtype,
    inherited,
    looks_like,
    mesh_of,
    number,
    place,
    some,
    title,
    uncompared,
)

SHOWN_FINDINGS = 6


def print_report(report: Report, console: Console) -> None:
    print_parts(_parts(report), console)


def report_text(report: Report, width: int) -> str:
    """The same as plain text, lines of at most `width` characters."""
    text = io.StringIO()
    print_report(report, Console(file=text, width=width, color_system=None, markup=False, emoji=False))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _parts(report: Report) -> Iterator[RenderableType]:
    yield _head(report)
    yield Text()
    yield _verdict(report)
    for broken in uncompared(report):
        yield spaced(_uncompared(broken), indent=2)
    for sentence in in_a_narrower_dtype(report):
        yield spaced(Text(sentence, "bold red"), indent=2)
    found = unexplained(report)
    for finding in found[:SHOWN_FINDINGS]:
        yield spaced(_finding(finding, report), indent=2)
    if len(found) > SHOWN_FINDINGS:
        rest = ", ".join(f.kind for f in found[SHOWN_FINDINGS:])
        yield spaced(Text(f"also introduced at: {rest}"), indent=2)
    downstream = inherited(report)
    if downstream is not None:
        yield spaced(Text(downstream), indent=2)
    for sentence in agreement(report):
        yield spaced(Text(sentence), indent=2)
    if looks_like(report):
        yield spaced(Text.assemble(("looks like: ", "bold"), "\n".join(looks_like(report))), indent=2)
    yield _summary(report)
    yield _logits(report)
    if choices.sentences(report.results):
        lines = choices.sentences(report.results)
        yield spaced(Text("\n".join(["choices of experts", *(f"  {line}" for line in lines)])))
    if report.acceptance is not None:
        yield spaced(_acceptance(report.acceptance))
    if report.not_covered:
        yield spaced(Text("\n".join(["not covered", *(f"  {x}" for x in report.not_covered)])))


def _head(report: Report) -> Table:
    environment = report.environment
    grid = Table.grid(padding=(0, 2))
    grid.add_row("golden", Text(f"{report.golden.path}  {report.golden.id[:12]}"))
    grid.add_row("port", Text(report.port))
    libraries = environment["libraries"]
    grid.add_row(
        "ran on",
        f"{environment['backend']} ({', '.join(environment['devices'])}), jax {libraries['jax']}, "
        f"flax {libraries['flax']}",
    )
    mesh = mesh_of(report)
    if mesh is not None:
        grid.add_row("mesh", Text(mesh))
    for name, settings in environment["precision"].items():
        x64 = "on" if settings["x64"] else "off"
        grid.add_row("in force", f"{name}: x64 {x64}, matmul precision {settings['matmul_precision']}")
    for note in report.notes:
        grid.add_row("note", Text(note))
    return grid


def _verdict(report: Report) -> Text:
    word, counts = headline(report)
    return Text.assemble((word, "bold green" if word == "PASS" else "bold red"), f"  {counts}")


def _uncompared(broken: Uncompared) -> Text:
    text = f"{some(broken.taps)}\n  expected  {broken.expected}\n  found     {broken.found}   ({broken.where})"
    return Text.assemble((f"{broken.reason}: ", "bold red"), text)


def _finding(finding: Finding, report: Report) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_row(
        Text(title(finding), "bold red"),
        Text.assemble((place(finding), "bold"), f"   ({extent(finding)})"),
    )
    for label, text in facts(finding, report):
        grid.add_row(label, Text(text))
    return grid


def _summary(report: Report) -> Padding:
    columns = ("match", "rms x", "max x", "limits", "rel. rms", "largest rms at")
    figures = table("precision", "mode", *columns, gap=1)
    for group in groups(report):
        worst = group.worst
        compared = has_figures(worst)
        numbers = (worst.rms_multiple, group.worst_max.max_multiple, group.rel_rms)
        rms, largest, relative = (number(x) if compared else "" for x in numbers)
        figures.add_row(
            group.precision,
            group.mode,
            f"{group.matched:,} of {group.compared:,}",
            rms,
            largest,
            ", ".join(filter(None, (allowed(worst.rms_limit), allowed(group.worst_max.max_limit)))),
            relative,
            Text(f"{worst.tap} in {worst.case}" if compared else "nothing compared"),
        )
    return spaced(figures)


def _logits(report: Report) -> RenderableType:
    by_precision = forward_logits(report.results)
    if not by_precision:
        return Text()
    columns = ("max abs", "mean abs", "max KL", "NMSE", "lowest PCC", "top-1 agreement", "flips", "ties")
    figures = table("logits", *columns, gap=1)
    for precision, results in by_precision.items():
        found = logit_summary(results)
        figures.add_row(
            precision,
            *(number(x) for x in (found.max_abs, found.mean_abs)),
            between(found.max_kl_low, found.max_kl),
            number(found.nmse),
            number(found.pcc, ".9g"),
            f"{found.agreed:,} of {found.positions:,}",
            str(found.flips),
            str(found.ties),
        )
    return spaced(figures)


def _acceptance(acceptance: Acceptance) -> Text:
    word = ("pass", "green") if acceptance.passed else ("fail", "red")
    text = Text.assemble(f"acceptance at {acceptance.precision}: ", word, f"   {criteria(acceptance)}")
    if acceptance.generation:
        text.append(f"\n  generation: {acceptance.generation}")
    return text.append(f"\n  {acceptance.remark}") if acceptance.remark else text
