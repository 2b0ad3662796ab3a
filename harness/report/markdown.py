"""The report as a GitHub step summary: short, worst first, never larger than GitHub takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from harness.report import choices, wording
from harness.report.agreement import agreement
from harness.report.document import Report
from harness.report.findings import Finding, worst_first
from harness.report.summary import forward_logits, groups, has_figures, logit_summary

MAX_BYTES = 1024 * 1024  # GitHub drops a step summary that is larger, whole
SHOWN_FINDINGS, SHOWN_LINES, SHOWN_CHARACTERS = 20, 50, 300
# Outside a word of plain text: anything that Markdown, HTML or GitHub's own links could act on.
ACTIVE = r"[^\w\s.,;:/()=+%'→-]|_(?!\w)|(?<!\w)_|(?<=www)\.|:(?=//)|^[-+=]|^\d+(?=[.)](?:\s|$))"
CUT = "\n*Cut to the size that GitHub shows; everything is in the JSON report.*\n"


def markdown(report: Report) -> str:
    """The summary, never larger than GitHub takes."""
    return fitted(_sections(report))


def fitted(sections: Iterable[str]) -> str:
    """As many sections as GitHub takes, and a word where some had to go."""
    written = ""
    for section in sections:
        if len((written + section + CUT).encode()) > MAX_BYTES:
            return written + CUT
        written += section
    return written


def _sections(report: Report) -> Iterator[str]:
    word, counts = wording.headline(report)
    yield f"## goldens: {word}\n\n{text(counts)}: port {code(report.port)}, model {code(report.golden.model)}\n"
    mesh = wording.mesh_of(report)
    if mesh is not None:
        yield f"\nOn a mesh {code(mesh)}\n"
    for note in report.notes:
        yield f"\n> {text(note)}\n"
    for broken in wording.uncompared(report):
        yield (
            f"\n**{broken.reason}** {code(wording.some(broken.taps))} ({text(broken.where)}): "
            f"expected {code(broken.expected or '')}, found {code(broken.found or '')}\n"
        )
    for sentence in wording.in_a_narrower_dtype(report):
        yield f"\n{text(sentence)}\n"
    found = worst_first(report)
    if found:
        yield _findings(report, found)
    downstream = wording.inherited(report)
    if downstream is not None:
        yield f"\n{text(downstream)}\n"
    for sentence in agreement(report):
        yield f"\n{text(sentence)}\n"
    for place, line in enumerate(wording.looks_like(report)):
        yield f"\n{'**looks like** ' if place == 0 else ''}{linked(line)}\n"
    yield _figures(report)
    said = choices.sentences(report.results)
    if said:
        yield f"\nChoices of experts\n\n{rows(said)}"
    if report.acceptance is not None:
        passed = "pass" if report.acceptance.passed else "fail"
        criteria = text(wording.criteria(report.acceptance))
        yield f"\nAcceptance at {report.acceptance.precision}: **{passed}**, {criteria}\n"
        if report.acceptance.generation:
            yield f"Generation: {text(report.acceptance.generation)}\n"
    if report.not_covered:
        yield details(f"Not covered: {len(report.not_covered)}", rows(report.not_covered))
    if found:
        yield details("Evidence", "\n".join(_evidence(report, finding) for finding in found[:SHOWN_FINDINGS]))
    logits = _logits(report)
    if logits:
        yield details("Logits", logits)
    limits = [f"{p}: {wording.rule(x)}: {x.why}" for p, x in report.limits.items()]
    yield details("Limits and golden", rows([*limits, f"golden {report.golden.id} at {report.golden.path}"]))


def _findings(report: Report, found: Sequence[Finding]) -> str:
    lines = []
    for finding in found[:SHOWN_FINDINGS]:
        worst = finding.worst
        known = dict(wording.facts(finding, report))
        lines.append(
            (
                f"{_how(finding)}{code(wording.place(finding))}",
                f"{len(finding.taps)} of {finding.layers}" if finding.layers else "",
                ", ".join(finding.precisions),
                f"{wording.number(worst.rms_multiple)} "
                f"(limit {wording.allowed(worst.rms_limit)}, {worst.precision})",
                text(known.get("worst at", "")),
            )
        )
    more = len(found) - SHOWN_FINDINGS
    rest = f"\nand {more} more kinds of taps, in the JSON report\n" if more > 0 else ""
    return table(("introduced at", "layers", "precisions", "x noise", "worst element"), lines) + rest


def _evidence(report: Report, finding: Finding) -> str:
    lines = [f"{label}: {value}" for label, value in wording.facts(finding, report) if label != "worst at"]
    return f"{code(wording.place(finding))} ({text(wording.extent(finding))})\n\n{rows(lines)}"


def _figures(report: Report) -> str:
    lines = []
    for group in groups(report):
        worst = group.worst
        compared = has_figures(worst)
        lines.append(
            (
                f"{group.precision} {group.mode}",
                f"{group.matched:,} of {group.compared:,}",
                f"{wording.number(worst.rms_multiple)} of {wording.allowed(worst.rms_limit)}"
                if compared
                else "nothing compared",
                f"{code(worst.tap)} in {code(worst.case)}" if compared else "",
                f"{report.limits[group.precision].weakest_bug:.2g}",
            )
        )
    return table(("", "match", "largest x noise, of limit", "at", "weakest known bug"), lines)


def _how(finding: Finding) -> str:
    """What is said before the taps of a finding that names no single operation."""
    if not finding.located:
        return "not located: "
    return "on the way to " if finding.since else ""


def _logits(report: Report) -> str:
    lines = []
    for precision, results in forward_logits(report.results).items():
        figures = logit_summary(results)
        lines.append(
            (
                precision,
                wording.number(figures.max_abs),
                wording.between(figures.max_kl_low, figures.max_kl),
                f"{figures.agreed:,} of {figures.positions:,}",
                str(figures.flips),
                str(figures.ties),
            )
        )
    return table(("", "max abs", "max KL", "top-1 agreement", "flips", "ties"), lines) if lines else ""


def table(heads: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """A table of cells that are already Markdown."""
    lines = [heads, ["---"] * len(heads), *cells]
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def rows(lines: Sequence[str]) -> str:
    """A list of lines from outside, cut where it is long."""
    more = len(lines) - SHOWN_LINES
    shown = [f"- {text(line)}\n" for line in lines[:SHOWN_LINES]]
    return "".join([*shown, *([f"- and {more} more, in the JSON report\n"] if more > 0 else [])])


def details(summary: str, body: str) -> str:
    """What is folded away until somebody asks for it."""
    return f"\n<details><summary>{summary}</summary>\n\n{body}\n</details>\n"


def text(outside: str) -> str:
    """Text from outside, shortened, as it reads: what Markdown or HTML would act on becomes an entity.

    An entity is never syntax in CommonMark, and GitHub's tables do not cut at one.
    """
    plain = " ".join(_shortened(outside).split())
    return re.sub(ACTIVE, _entity, plain)


def linked(outside: str) -> str:
    """The same, with its addresses as links."""
    parts = re.split(f"({wording.ADDRESS})", outside)
    shown = (f"<{part}>" if place % 2 else text(part) for place, part in enumerate(parts))
    return " ".join(part for part in shown if part)


def code(outside: str) -> str:
    """The same as code."""
    plain = " ".join(_shortened(outside).split())
    if re.fullmatch(r"[\w.*:/, ()+=-]+", plain):
        return f"`{plain}`"
    return f"<code>{re.sub(r'[^A-Za-z0-9 ]', _entity, plain)}</code>"


def _entity(found: re.Match[str]) -> str:
    return "".join(f"&#{ord(character)};" for character in found.group())


def _shortened(outside: str) -> str:
    if len(outside) > SHOWN_CHARACTERS:
        outside = outside[: SHOWN_CHARACTERS - 3] + "..."
    return "".join(c if c.isprintable() or c.isspace() else wording.escaped(c) for c in outside)
