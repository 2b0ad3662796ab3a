"""A golden whose truth is stored in float32 is asked what it can carry, and says what the rounding costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness.costs import losses, said
from harness.errors import UsageError
from harness.golden import statistic
from harness.layout import Layout
from harness.run.check import Checker
from harness.run.port import BUILT_IN
from harness.run.question import Question
from harness.store import open_golden
from harness.store.writer import NewArray, write_golden
from harness.tolerances import SMALL, is_small, limit, share

CASE = "digits"


def test_the_usual_question_is_what_the_golden_can_carry():
    assert Question().carried_by("float32").precisions == ("float32",)
    assert Question().carried_by("float64").precisions == ("float64", "float32")
    assert Question(precisions=("bfloat16",)).carried_by("float32").precisions == ("bfloat16",)


@pytest.mark.parametrize("asked", [("float64",), ("float64", "bfloat16")])
def test_float64_is_refused_where_it_is_asked_for_by_itself(asked):
    with pytest.raises(UsageError, match="cannot say anything about float64") as refusal:
        Question(precisions=asked).carried_by("float32")
    assert "--dtype float64" in refusal.value.hint


@pytest.mark.parametrize("tighter", [{"limit_rms": 0.5}, {"limit_max": 0.5}])
@pytest.mark.parametrize("asked", [("float32",), ("float64", "float32")])
def test_limits_that_are_tighter_than_the_rounding_of_the_truth_are_refused(asked, tighter):
    with pytest.raises(UsageError, match="too tight for a truth that is stored in float32") as refusal:
        Question(precisions=asked, **tighter).carried_by("float32")
    assert refusal.value.found == "up to 0.62"
    assert Question(precisions=("float32",), **tighter).carried_by("float64").precisions == ("float32",)
    assert Question(precisions=("bfloat16",), **tighter).carried_by("float32").precisions == ("bfloat16",)


def test_small_is_a_third_of_the_tightest_limit():
    assert share("float32", "float32", limit("float32")) == pytest.approx(1 / 3.2)
    assert share("float32", "bfloat16", limit("bfloat16")) == pytest.approx(2**-16 / 1.25)
    assert share("float32", "float64", limit("float64")) == pytest.approx(2**29 / 1e5)
    assert SMALL == 1 / 3 and is_small("float32", "float32", limit("float32", 0.95))
    assert not is_small("float32", "float32", limit("float32", 0.9))


@pytest.fixture(scope="module")
def copies(golden_path, tmp_path_factory):
    """One case of the embedded golden, with its truth as it is and rounded."""
    folder = tmp_path_factory.mktemp("narrow")
    with open_golden(golden_path) as golden:
        whole = golden.manifest
        for dtype in ("float64", "float32"):
            one = replace(whole, cases=(whole.case(CASE),), truth_dtype=dtype, arrays={})
            write_golden(folder / f"{dtype}.h5", _arrays(golden, dict(Layout(one).forms())), one)
    return folder / "float64.h5", folder / "float32.h5"


def _arrays(golden, forms):
    for path, form in forms.items():
        for index in range(form.slabs):
            value = golden._array(path, index if form.stacked else None)
            yield NewArray(path, value.astype(form.dtype), index)


def test_the_loss_is_half_an_ulp_over_the_recorded_error(copies):
    with open_golden(copies[0]) as wide, open_golden(copies[1]) as narrow:
        assert said(wide) is None
        found = {(loss.precision, loss.kind): loss for loss in losses(narrow)}
        ratios = []
        floors = narrow.noise(CASE, "float32", "replay")[:, statistic("rms"), 0]
        for name, floor in zip(narrow.manifest.case(CASE).taps, floors, strict=True):
            tap = next(tap for tap in narrow.manifest.taps if tap.name == name)
            value = np.moveaxis(wide.tap(CASE, name), tap.position_axis, 1)[0]
            half = 2.0**-24 * np.sqrt(np.square(value).reshape(len(value), -1).mean(1))
            ratios += [a / b for a, b in zip(half, floor, strict=True) if b > 0]
        assert found["float32", "replay"].median == pytest.approx(np.median(ratios), rel=1e-6)
        assert found["float32", "replay"].largest == pytest.approx(max(ratios), rel=1e-6)
        assert found["bfloat16", "replay"].largest < 1e-3 < found["float32", "replay"].median
        assert f"{np.median(ratios):.2g} (up to {max(ratios):.2g}) in replay at float32" in said(narrow)


def test_a_check_has_the_same_verdicts_and_multiples_that_differ_by_no_more_than_the_loss(copies, checkpoint):
    reports = []
    for golden in copies:
        question = Question(precisions=("float32",), modes=("forward", "replay"))
        with Checker(golden, checkpoint, BUILT_IN, question) as checker:
            reports.append(checker.report([checker.run("float32")]))
    exact, rounded = reports
    assert any(note.startswith("truth is rounded to float32") for note in rounded.notes) and not exact.notes
    assert "precision float64: the truth is stored in float32" in rounded.not_covered
    assert len(exact.results) == len(rounded.results) > 100
    for a, b in zip(exact.results, rounded.results, strict=True):
        assert a.verdict == b.verdict == "match"
        # Half an ulp is at most one multiple; of many numbers the rms of that is 1 / sqrt(3).
        assert abs(a.rms_multiple - b.rms_multiple) <= 0.6 and abs(a.max_multiple - b.max_multiple) <= 1.0
