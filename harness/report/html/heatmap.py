"""Heat maps as plain tables: layer x tap, and layer x position. Each cell is the largest multiple there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from harness.modes import MODES
from harness.report.document import Report
from harness.report.html.scale import short, step
from harness.report.summary import UNCOMPARED
from harness.results import TapResult
from harness.taps import kind_of

BEYOND, BROKEN, NOT_COMPARED = "▲", "×", "–"
# More positions than columns are put into bins: single ones first, where RoPE and the mask begin, then ever wider.
MAX_COLUMNS, SINGLE = 24, 8


@dataclass(frozen=True)
class Cell:
    """One cell: what is written in it, the step of its colour (None: no colour), and where it comes from."""

    text: str
    step: int | None
    title: str


@dataclass(frozen=True)
class HeatMap:
    """A table of cells. A cell of None: there is no such tap."""

    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    note: str


def by_tap(report: Report, precision: str, mode: str) -> HeatMap:
    """Rows are layers, columns kinds of taps, both in data-flow order."""
    results: dict[str, list[TapResult]] = {}
    for r in _of(report, precision, mode):
        results.setdefault(r.tap, []).append(r)
    stages = dict.fromkeys(_stage(name) for name in report.taps if "." in name)
    kinds = dict.fromkeys(map(kind_of, report.taps))
    outside = [name for name in report.taps if "." not in name]

    def cell(name: str) -> Cell | None:
        return _tap_cell(name, results.get(name, [])) if name in report.taps else None

    rows = [
        (_label(stage), tuple(cell(f"{stage}.{kind}") if kind not in outside else None for kind in kinds))
        for stage in stages
    ]
    rows.append(("model", tuple(cell(kind) if kind in outside else None for kind in kinds)))
    note = "the rms noise multiple that is worst in view of its limit, over all cases and positions"
    return HeatMap("layer", tuple(kinds), tuple(rows), note)


def by_position(report: Report, precision: str, mode: str) -> HeatMap:
    """Rows are layers, columns positions in the sequence, binned where there are many."""
    results = _of(report, precision, mode)
    edges = bins(max((len(r.profile) for r in results), default=0))
    spans = list(pairwise(edges))
    rows = []
    for stage in dict.fromkeys(map(_stage, report.taps)):
        worst: list[tuple[float, float, TapResult] | None] = [None] * len(spans)
        for r in (r for r in results if _stage(r.tap) == stage):
            # Nothing is compared at padding: None is not finite only in a result that has such a value at all.
            gap = math.inf if r.rms_multiple is None else -math.inf
            places = [
                (gap, gap) if value is None else (value / (limit or 1.0), value)
                for value, limit in zip(r.profile, r.limits, strict=True)
            ]
            for column, (start, stop) in enumerate(spans):
                share, value = max(places[start:stop], default=(-math.inf, -math.inf))
                before = worst[column]
                if share > (-math.inf if before is None else before[0]):
                    worst[column] = share, value, r
        cells = (_position_cell(found, span) for found, span in zip(worst, spans, strict=True))
        rows.append((_label(stage), tuple(cells)))
    binned = "; positions share a column from 8 on, and the largest counts" if len(edges) - 1 < edges[-1] else ""
    note = (
        f"the rms noise multiple that is worst in view of its limit, over the layer's taps and all cases{binned}"
    )
    return HeatMap("layer", tuple(span_text(*span) for span in spans), tuple(rows), note)


def bins(positions: int) -> tuple[int, ...]:
    """The edges of at most `MAX_COLUMNS` bins over that many positions."""
    if positions <= MAX_COLUMNS:
        return tuple(range(positions + 1))
    wide = np.geomspace(SINGLE, positions, MAX_COLUMNS - SINGLE + 1).round().astype(int)
    return tuple(dict.fromkeys((*range(SINGLE), *wide.tolist())))


def span_text(start: int, stop: int) -> str:
    """The positions of a bin, both ends included."""
    return str(start) if stop - start == 1 else f"{start}–{stop - 1}"


def _tap_cell(name: str, results: Sequence[TapResult]) -> Cell:
    if not results:
        return Cell(NOT_COMPARED, None, f"{name}: not compared")
    broken = [r for r in results if r.verdict in UNCOMPARED]
    if broken:
        return Cell(BROKEN, None, f"{name}: {broken[0].verdict} in {broken[0].case}, {len(broken)} in all")
    worst = max(results, key=lambda r: r.share)
    wrong = sum(r.verdict != "match" for r in results)
    what = f"{wrong} of {len(results)} cases beyond the limit; " if wrong else ""
    title = f"{name}: {what}largest in {worst.case}"
    value = math.inf if worst.rms_multiple is None else worst.rms_multiple
    return _cell(value, worst.share, bool(wrong), title)


def _position_cell(found: tuple[float, float, TapResult] | None, span: tuple[int, int]) -> Cell:
    if found is None:
        return Cell(NOT_COMPARED, None, f"position {span_text(*span)}: not compared")
    share, value, result = found
    title = f"position {span_text(*span)}: largest at {result.tap} in {result.case}"
    return _cell(value, share, share > 1, title)


def _cell(value: float, share: float, beyond: bool, title: str) -> Cell:
    return Cell((BEYOND if beyond else "") + short(value), step(share), title)


def _of(report: Report, precision: str, mode: str) -> list[TapResult]:
    return [r for r in report.results if (r.precision, r.mode) == (precision, mode)]


def _stage(name: str) -> str:
    """`layers.3` of a tap in a layer, the name itself outside the layers."""
    return name.rpartition(".")[0] or name


def _label(stage: str) -> str:
    return stage.removeprefix("layers.")


def modes(report: Report, precision: str) -> Iterable[str]:
    """The modes checked at a precision; replay first, since it says where."""
    found = {r.mode for r in report.results if r.precision == precision}
    return (mode for mode in sorted(MODES, key=lambda mode: mode != "replay") if mode in found)
