from dataclasses import replace

import numpy as np
import pytest

from harness.comparison import Noise, Place, compare
from harness.taps import Tap
from harness.tolerances import limit

TAP = Tap("layers.0.q", ("batch", "position", "hidden"), ())
LOGITS = Tap("logits", ("batch", "position", "vocab"), ())
UNIT = 2.0**-24


def run(actual, truth, noise=None, tap=TAP, precision="float32", dtype="float32"):
    return compare(Place("case", precision, "replay", tap), actual, truth, noise, limit(precision), dtype)


def values(shape=(1, 6, 8), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def noisy(truth, multiple):
    """Truth plus an error of exactly that many half-ulps of each position's rms, at every element."""
    rms = np.sqrt(np.square(truth).mean(axis=-1, keepdims=True))
    return (truth.astype(np.float64) + multiple * UNIT * rms).astype(np.float64)


def test_equal_values_match_with_multiple_zero():
    truth = values()
    result = run(truth, truth.astype(np.float64))
    assert (result.verdict, result.rms_multiple, result.max_abs) == ("match", 0.0, 0.0)


def test_the_limit_is_where_it_says():
    truth = values().astype(np.float64)
    below = compare(
        Place("c", "float32", "forward", TAP), noisy(truth, 3.9), truth, None, limit("float32"), "float64"
    )
    above = compare(
        Place("c", "float32", "forward", TAP), noisy(truth, 4.1), truth, None, limit("float32"), "float64"
    )
    assert below.verdict == "match"
    assert below.rms_multiple == pytest.approx(3.9)
    assert above.verdict == "diverged"


def test_two_runs_of_a_port_may_differ_by_twice_what_one_may_be_off():
    """The triangle inequality: two that are each just within the limit, on either side of the truth, agree."""
    truth = values().astype(np.float64)
    one, other = noisy(truth, 3.9), noisy(truth, -3.9)
    place = Place("c", "float32", "prefill", TAP)
    apart = compare(place, one, other, None, limit("float32"), "float64")
    assert (apart.verdict, apart.rms_multiple) == ("match", pytest.approx(3.9))
    assert compare(place, noisy(truth, 4.2), other, None, limit("float32"), "float64").verdict == "diverged"
    forward = replace(place, mode="forward")
    assert compare(forward, one, other, None, limit("float32"), "float64").rms_multiple == pytest.approx(7.8)


def test_a_batch_says_which_row_is_the_worst_and_which_are_beyond_the_limit():
    truth = values((3, 6, 8)).astype(np.float64)
    actual = truth.copy()
    actual[0], actual[2] = noisy(truth, 5.0)[0], noisy(truth, 50.0)[2]
    found = run(actual, truth, dtype="float64")
    assert (found.row, found.wrong_rows) == (2, (0, 2))
    single = run(noisy(truth[:1], 50.0), truth[:1], dtype="float64")
    assert (single.row, single.wrong_rows) == (None, ())


def test_one_wrong_element_among_many_is_not_averaged_away():
    truth = np.ones((1, 1000, 100))
    actual = truth.copy()
    actual[0, 500, 50] += 1e-4
    result = run(actual, truth, dtype="float64")
    assert result.verdict == "diverged"
    assert result.worst is not None
    assert result.worst.index == {"batch": 0, "position": 500, "hidden": 50}
    assert (result.worst.actual, result.worst.golden) == (pytest.approx(1.0001), 1.0)


def test_a_recorded_floor_allows_what_pytorch_itself_does():
    truth = values().astype(np.float64)
    noise = Noise(np.full((2, 1, 6), 1e-3), np.zeros(2))
    assert run(truth + 3e-3, truth, noise, dtype="float64").verdict == "match"
    assert run(truth + 5e-3, truth, noise, dtype="float64").verdict == "diverged"
    assert run(truth + 5e-3, truth, noise, dtype="float64").noise_max == 1e-3
    typical = Noise(np.zeros((2, 1, 6)), np.full(2, 1e-3))
    assert run(truth + 3e-3, truth, typical, dtype="float64").verdict == "match"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_nonfinite_and_located(bad):
    truth = values()
    actual = truth.copy()
    actual[0, 2, 3] = bad
    result = run(actual, truth.astype(np.float64))
    assert result.verdict == "nonfinite"
    assert result.rms_multiple is None
    assert result.worst is not None
    assert result.worst.index == {"batch": 0, "position": 2, "hidden": 3}
    assert result.worst.actual is None


def test_another_shape_is_refused_not_broadcast():
    truth = values().astype(np.float64)
    result = run(values((1, 6, 1)), truth)
    assert (result.verdict, result.found) == ("shape", "(1, 6, 1)")
    assert result.expected == "(1, 6, 8) [batch, position, hidden]"


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32])
def test_another_dtype_is_refused_even_if_the_values_are_equal(dtype):
    truth = np.ones((1, 2, 3))
    result = run(truth.astype(dtype), truth)
    assert (result.verdict, result.expected, result.found) == ("dtype", "float32", np.dtype(dtype).name)


@pytest.mark.parametrize("length", [2, 3])
def test_a_correlation_over_few_positions_means_nothing_and_says_so(length):
    truth = np.ones((1, length, 4))
    actual = truth * (1 + np.arange(length))[None, :, None]
    result = run(actual, truth, dtype="float64")
    assert result.position_r == pytest.approx(1.0)
    assert result.position_note == f"r means nothing with {length} positions"


def test_a_correlation_within_the_noise_means_nothing_and_says_so():
    truth = np.ones((1, 8, 4))
    actual = truth * (1 + UNIT * np.linspace(0, 2, 8))[None, :, None]
    result = run(actual, truth, dtype="float64")
    assert result.verdict == "match"
    assert result.position_note == "r means nothing: the error is within the noise"


def test_growth_is_tested_only_above_the_noise():
    truth = np.ones((1, 12, 4))
    actual = truth * (1 + 1e-2 * np.arange(12))[None, :, None]
    result = run(actual, truth, dtype="float64")
    assert result.position_note is None
    assert result.growth_p == 0.001
    assert run(truth, truth, dtype="float64").growth_p is None


def test_a_flip_within_the_noise_is_a_tie_and_beyond_it_is_not():
    truth = np.zeros((1, 2, 3))
    truth[0, :, 0] = 1.0
    truth[0, 0, 1] = 1.0 - 1e-3  # a narrow margin at position 0, a wide one at position 1
    actual = truth.copy()
    actual[0, :, 1] = 1.1
    noise = Noise(np.full((2, 1, 2), 1e-3), np.zeros(2))
    result = run(actual, truth, noise, tap=LOGITS, dtype="float64")
    assert result.logits is not None
    tie, flip = result.logits.flips
    assert (tie.position, tie.golden, tie.actual, tie.tie) == (0, 0, 1, True)
    assert (flip.position, flip.tie, flip.margin) == (1, False, 1.0)
    assert result.logits.top1_agreement == 0.0
