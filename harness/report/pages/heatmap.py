"""Heat maps as plain tables: layer x tap, and layer x position. Each cell is the largest multiple there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from harness.report.document import Report
from harness.report.pages.scales import short, step
from harness.report.summary import UNCOMPARED, grouped
from harness.report.tables import BEYOND, BROKEN, NOT_COMPARED, Cell, Column, Head, Row, Table
from harness.results import MODES, TapResult, is_wrong
from harness.taps import kind_of

# More positions than columns are put into bins: single ones first, where RoPE and the mask begin, then ever wider.
MAX_COLUMNS, SINGLE = 24, 8


def by_tap(report: Report, precision: str, mode: str) -> Table:
    """Rows are layers, columns kinds of taps, both in data-flow order."""
    results = grouped(_of(report, precision, mode), lambda r: r.tap)
    stages = dict.fromkeys(_stage(name) for name in report.taps if "." in name)
    kinds = dict.fromkeys(map(kind_of, report.taps))
    outside = [name for name in report.taps if "." not in name]

    def cell(name: str) -> Cell | str:
        return _tap_cell(name, results.get(name, [])) if name in report.taps else ""

    rows: list[Row] = [
        (_label(stage), *(cell(f"{stage}.{kind}") if kind not in outside else "" for kind in kinds))
        for stage in stages
    ]
    rows.append(("model", *(cell(kind) if kind in outside else "" for kind in kinds)))
    note = "the rms noise multiple that is worst in view of its limit, over all cases and positions"
    return _map(f"{mode}, layer by tap", kinds, rows, note)


def by_position(report: Report, precision: str, mode: str) -> Table:
    """Rows are layers, columns positions in the sequence, binned where there are many."""
    results = _of(report, precision, mode)
    edges = bins(max((len(r.profile) for r in results), default=0))
    spans = list(pairwise(edges))
    by_stage: dict[str, list[TapResult]] = {_stage(name): [] for name in report.taps}
    for r in results:
        by_stage.get(_stage(r.tap), []).append(r)  # taps that a port invented are in no map
    rows: list[Row] = []
    for stage, of_stage in by_stage.items():
        shares, values = _profiles(of_stage, edges[-1])
        cells = (_position_cell(of_stage, shares, values, span) for span in spans)
        rows.append((_label(stage), *cells))
    binned = "; positions share a column from 8 on, and the largest counts" if len(edges) - 1 < edges[-1] else ""
    note = (
        f"the rms noise multiple that is worst in view of its limit, over the layer's taps and all cases{binned}"
    )
    return _map(f"{mode}, layer by position", (span_text(*span) for span in spans), rows, note)


def _map(label: str, columns: Iterable[str], rows: Sequence[Row], note: str) -> Table:
    heads: tuple[Head, ...] = ("layer", *(Column(name, "narrow") for name in columns))
    return Table(heads, tuple(rows), label, f"{label}: {note}", "heat")


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
        return _no_figure(f"{name}: not compared")
    broken = [r for r in results if r.verdict in UNCOMPARED]
    if broken:
        return Cell(
            BROKEN, mark="broken", title=f"{name}: {broken[0].verdict} in {broken[0].case}, {len(broken)} in all"
        )
    results = [r for r in results if r.verdict != "tied"]
    if not results:
        return _no_figure(f"{name}: every token is a tie")
    worst = max(results, key=lambda r: r.share)
    wrong = sum(is_wrong(r.verdict) for r in results)
    beyond = f"{wrong} of {len(results)} cases beyond the limit; " if wrong else ""
    title = f"{name}: {beyond}largest in {worst.case}"
    value = math.inf if worst.rms_multiple is None else worst.rms_multiple
    return _cell(value, worst.share, bool(wrong), title)


def _profiles(
    results: Sequence[TapResult], length: int
) -> tuple[Float[np.ndarray, "result position"], Float[np.ndarray, "result position"]]:
    """The shares of the limit and the multiples; -inf where there is no such position."""
    shares, values = (np.full((len(results), length), -math.inf) for _ in range(2))
    for row, r in enumerate(results):
        # Nothing is compared at padding: None is not finite only in a result that has such a value at all.
        gap = math.inf if r.rms_multiple is None else -math.inf
        known = r.profile if None not in r.profile else [gap if value is None else value for value in r.profile]
        limits = r.limits if all(r.limits) else [limit or 1.0 for limit in r.limits]
        multiples = np.array(known)
        values[row, : len(multiples)] = multiples
        shares[row, : len(multiples)] = multiples / np.array(limits)
    return shares, values


def _position_cell(
    results: Sequence[TapResult],
    shares: Float[np.ndarray, "result position"],
    values: Float[np.ndarray, "result position"],
    span: tuple[int, int],
) -> Cell:
    here = shares[:, slice(*span)]
    row, place = divmod(int(here.argmax()), here.shape[1]) if here.size else (0, 0)
    if not here.size or (share := float(here[row, place])) == -math.inf:
        return _no_figure(f"position {span_text(*span)}: not compared")
    result, value = results[row], float(values[row, span[0] + place])
    title = f"position {span_text(*span)}: largest at {result.tap} in {result.case}"
    return _cell(value, share, share > 1, title)


def _cell(value: float, share: float, beyond: bool, title: str) -> Cell:
    return Cell((BEYOND if beyond else "") + short(value), step(share), "beyond" if beyond else "", title)


def _no_figure(title: str) -> Cell:
    return Cell(NOT_COMPARED, mark="quiet", title=title)


def _of(report: Report, precision: str, mode: str) -> list[TapResult]:
    return [r for r in report.results if (r.precision, r.mode) == (precision, mode)]


def _stage(name: str) -> str:
    """`layers.3` of a tap in a layer, the name itself outside the layers."""
    return name.rpartition(".")[0] or name


def _label(stage: str) -> str:
    return stage.removeprefix("layers.")


def modes(report: Report, precision: str) -> Iterable[str]:
    """The modes checked at a precision; replay first, since it says where."""
    checked = {r.mode for r in report.results if r.precision == precision}
    return (mode for mode in sorted(MODES, key=lambda mode: mode != "replay") if mode in checked)
