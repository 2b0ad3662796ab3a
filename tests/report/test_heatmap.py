from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from harness.report.document import LimitEntry
from harness.report.pages.heatmap import MAX_COLUMNS, bins, by_position, by_tap, span_text
from harness.report.pages.scales import EDGES, WITHIN, Measured, ladder, legend, short, step
from tests.report.samples import REPORT, build, result


def row(heat, name):
    """The cells of a row."""
    return next(cells for first, *cells in heat.rows if first == name)


def names(heat):
    """Those of the columns, but for the first."""
    return [column.name for column in heat.columns[1:]]


def test_the_limit_lies_on_an_edge_of_the_scale():
    assert EDGES[WITHIN - 1] == 1
    assert step(1.0) == WITHIN - 1
    assert step(1.0001) == WITHIN
    assert step(0.0) == 0
    assert step(math.inf) == len(EDGES)
    assert ["▲" in s.text for s in legend().steps] == [False] * WITHIN + [True] * 6


def test_below_the_limit_steps_double_and_beyond_it_they_are_tenfold():
    assert pytest.approx((1 / 8, 1 / 4, 1 / 2, 1, 10, 100, 1e3, 1e4, 1e5)) == EDGES
    assert [s.text for s in legend(beyond="").steps][-2:] == ["≤ 1e5", "> 1e5"]


def test_a_cell_is_coloured_by_its_own_limit():
    """Two positions with the same multiple: one is beyond the limit there, the other is not."""
    own = replace(result("layers.0.q", profile=(3.0, 3.0)), limits=(2.0, 30.0))
    cells = row(by_position(build(own), "float32", "replay"), "0")
    assert [cell.text for cell in cells] == ["▲3", "3"]
    assert [cell.shade for cell in cells] == [step(1.5), step(0.1)]


@pytest.mark.parametrize(
    ("multiple", "text"),
    [
        (0.0, "0"),
        (0.04, "0"),
        (0.44, "0.4"),
        (3.14, "3.1"),
        (9.97, "10"),
        (31.8, "32"),
        (999.6, "1e3"),
        (3.6e5, "4e5"),
    ],
)
def test_a_multiple_is_short_enough_for_a_cell(multiple, text):
    assert short(multiple) == text
    assert short(math.inf) == "NaN"


@pytest.mark.parametrize("positions", [0, 1, 2, 23, 24, 25, 27, 100, 628, 32768])
def test_bins_cover_every_position_once(positions):
    edge = bins(positions)
    assert edge[0] == 0
    assert edge[-1] == positions
    assert all(a < b for a, b in pairwise(edge))
    assert len(edge) - 1 <= MAX_COLUMNS
    assert edge[: min(positions, 8) + 1] == tuple(range(min(positions, 8) + 1))


def test_a_bin_is_named_by_both_its_ends():
    assert span_text(3, 4) == "3"
    assert span_text(8, 12) == "8–11"


def test_a_cell_is_the_largest_over_cases_and_counts_those_beyond():
    report = build(
        result("layers.0.q", multiple=1.1),
        result("layers.0.q", verdict="introduced", multiple=70.0, case="other"),
        result("layers.0.q", "forward", multiple=999.0),
    )
    heat = by_tap(report, "float32", "replay")
    cell = row(heat, "0")[names(heat).index("q")]
    assert (cell.text, cell.title) == ("▲70", "layers.0.q: 1 of 2 cases beyond the limit; largest in other")


def test_beyond_the_limit_of_max_alone_is_marked_too():
    result_ = replace(result("layers.0.q", verdict="introduced", multiple=3.0), max_multiple=9.0)
    heat = by_tap(build(result_), "float32", "replay")
    cell = row(heat, "0")[names(heat).index("q")]
    assert (cell.text, cell.shade) == ("▲3", step(9 / 8))


def test_layers_are_in_the_order_of_the_data_flow_not_of_the_alphabet():
    taps = dict.fromkeys(("embed", *(f"layers.{i}.q" for i in (0, 1, 2, 10)), "logits"), REPORT.taps["layers.0.q"])
    heat = by_tap(replace(REPORT, taps=taps, results=()), "float32", "replay")
    assert [first for first, *_ in heat.rows] == ["0", "1", "2", "10", "model"]


def test_a_long_profile_keeps_its_largest_value_per_bin_and_says_so():
    profile = [1.0] * 100
    profile[50] = 77.0
    heat = by_position(build(result("layers.0.q", profile=tuple(profile))), "float32", "replay")
    by_name = dict(zip(names(heat), row(heat, "0"), strict=True))
    marked = [name for name, cell in by_name.items() if cell.text == "▲77"]
    assert len(marked) == 1
    start, stop = map(int, marked[0].split("–"))
    assert start <= 50 <= stop
    assert "positions share a column from 8 on" in heat.about
    assert "share" not in by_position(build(result("layers.0.q")), "float32", "replay").about


def test_padding_is_not_compared_and_what_is_not_finite_is_beyond():
    padded = result("layers.0.q", profile=(None, 1.0))
    heat = by_position(build(padded), "float32", "replay")
    assert [cell.text for cell in row(heat, "0")] == ["–", "1"]
    broken = replace(
        result("layers.0.q", verdict="introduced", profile=(1.0, None)), rms_multiple=None, limits=(4.0, 4.0)
    )
    heat = by_position(build(padded, replace(broken, case="b")), "float32", "replay")
    assert [cell.text for cell in row(heat, "0")] == ["1", "▲NaN"]


def test_the_ladder_keeps_the_distances():
    limits = LimitEntry(4.0, 1.0, 1.0, "measured", 4e4)
    found = ladder("float32", "noise", limits, [Measured("this port", 400.0, "here", 4.0)])
    left = {rung.kind: rung.left for rung in found.rungs}
    decade = (left["bug"] - left["limit"]) / 4
    assert left["port"] - left["limit"] == pytest.approx(2 * decade, abs=0.2)
    assert [rung.kind for rung in found.rungs] == ["noise", "limit", "port", "bug"]
    assert found.limit == left["limit"]
    assert "cannot be seen" not in found.about
    assert {"1", "100"} <= {label for _, label in found.ticks}


def test_a_port_that_is_not_finite_stands_at_the_end_and_an_exact_one_at_the_beginning():
    limits = LimitEntry(4.0, 1.0, 1.0, "measured", 1.0)
    found = ladder("bfloat16", "noise", limits, [Measured("a", None, "", None), Measured("b", 0.0, "", 4.0)])
    assert [(r.name, r.text, r.left) for r in (found.rungs[0], found.rungs[-1])] == [
        ("b", "0", 0.0),
        ("a", "not finite", 100.0),
    ]
    assert "cannot be seen" in found.about
