"""A check as one HTML page."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from harness.report import choices, wording
from harness.report.agreement import agreement
from harness.report.document import Report
from harness.report.findings import Finding, worst_first
from harness.report.html import heatmap, scale
from harness.report.html.ladder import Ladder, Measured, ladder
from harness.report.html.page import render
from harness.report.summary import (
    READABLE,
    UNCOMPARED,
    LogitSummary,
    forward_logits,
    groups,
    has_figures,
    logit_summary,
)
from harness.results import Flip, TapResult, is_wrong

SHOWN_ELEMENTS, SHOWN_FLIPS = 8, 20


@dataclass(frozen=True)
class Detail:
    """A finding with its worst elements, one a result, worst first."""

    finding: Finding
    facts: tuple[tuple[str, str], ...]
    elements: tuple[TapResult, ...]
    more: int


@dataclass(frozen=True)
class Maps:
    """The heat maps of one precision: by mode, layer x tap and layer x position."""

    precision: str
    legend: tuple[scale.Step, ...]
    modes: tuple[tuple[str, heatmap.HeatMap, heatmap.HeatMap], ...]
    open: bool


@dataclass(frozen=True)
class CaseCell:
    """A case at one precision: comparisons, those that could not be made, those beyond the limit, the largest."""

    compared: int
    broken: int
    beyond: int
    largest: float | None


@dataclass(frozen=True)
class LogitTable:
    """The logits at one precision: all cases together, each case, and the largest flips: (case, flip)."""

    precision: str
    total: LogitSummary
    cases: tuple[tuple[TapResult, LogitSummary], ...]
    flips: tuple[tuple[str, Flip], ...]
    more: int


def html(report: Report) -> str:
    """The page."""
    return render(
        "check.html.jinja",
        report=report,
        headline=wording.headline(report),
        mesh=wording.mesh_of(report),
        uncompared=tuple(wording.uncompared(report)),
        narrower=tuple(wording.in_a_narrower_dtype(report)),
        details=tuple(details(report)),
        inherited=wording.inherited(report),
        agreement=agreement(report),
        looks_like=tuple(tuple(linked(line)) for line in wording.looks_like(report)),
        ladders=tuple(ladders(report)),
        groups=groups(report),
        maps=tuple(maps(report)),
        cases=tuple(cases(report)),
        logits=tuple(logits(report)),
        choices=choices.sentences(report.results),
    )


def linked(line: str) -> Iterator[tuple[str, bool]]:
    """The parts of a line: text, and whether it is an address to link to."""
    parts = re.split(f"({wording.ADDRESS})", line)
    yield from ((part, place % 2 == 1) for place, part in enumerate(parts) if part)


def details(report: Report) -> Iterator[Detail]:
    """The findings, worst first."""
    for finding in worst_first(report):
        wrong = [r for r in report.results if r.tap in finding.taps and r.verdict in ("introduced", "nonfinite")]
        wrong = [r for r in wrong if r.mode == finding.worst.mode]
        wrong.sort(key=lambda r: (r.precision != finding.worst.precision, -r.share))
        shown = tuple(wrong[:SHOWN_ELEMENTS])
        yield Detail(finding, tuple(wording.facts(finding, report)), shown, len(wrong) - len(shown))


def ladders(report: Report) -> Iterator[Ladder]:
    """One ladder per precision that was checked."""
    for precision, limits in report.limits.items():
        measured = [
            Measured(
                f"this port, {g.mode}", g.worst.rms_multiple, f"{g.worst.tap} in {g.worst.case}", g.worst.rms_limit
            )
            for g in groups(report)
            if g.precision == precision and has_figures(g.worst)
        ]
        yield ladder(precision, wording.unit(precision), limits, measured)


def maps(report: Report) -> Iterator[Maps]:
    """The heat maps of every precision; only the most readable one is open."""
    checked = list(dict.fromkeys(r.precision for r in report.results))
    opened = READABLE if READABLE in checked else next(iter(checked), None)
    for precision in checked:
        yield Maps(
            precision,
            scale.legend(),
            tuple(
                (mode, heatmap.by_tap(report, precision, mode), heatmap.by_position(report, precision, mode))
                for mode in heatmap.modes(report, precision)
            ),
            open=precision == opened,
        )


def cases(report: Report) -> Iterator[tuple[str, tuple[CaseCell | None, ...]]]:
    """Each case with what it is at every precision; None where it was not checked."""
    by_case: dict[str, dict[str, list[TapResult]]] = {}
    for r in report.results:
        by_case.setdefault(r.case, {}).setdefault(r.precision, []).append(r)
    for case, by_precision in by_case.items():
        yield case, tuple(_counted(by_precision.get(precision, [])) for precision in report.limits)


def _counted(results: list[TapResult]) -> CaseCell | None:
    if not results:
        return None
    broken = sum(r.verdict in UNCOMPARED for r in results)
    worst = max((r for r in results if has_figures(r)), key=lambda r: r.share, default=None)
    return CaseCell(
        compared=len(results),
        broken=broken,
        beyond=sum(is_wrong(r.verdict) for r in results) - broken,
        largest=None if worst is None else math.inf if worst.rms_multiple is None else worst.rms_multiple,
    )


def logits(report: Report) -> Iterator[LogitTable]:
    """The forward logits of every precision."""
    for precision, results in forward_logits(report.results).items():
        flips = [(r.case, flip) for r in results if r.logits is not None for flip in r.logits.flips]
        flips.sort(key=lambda found: (found[1].tie, -found[1].margin))
        yield LogitTable(
            precision,
            logit_summary(results),
            tuple((r, logit_summary([r])) for r in results),
            tuple(flips[:SHOWN_FLIPS]),
            max(len(flips) - SHOWN_FLIPS, 0),
        )
