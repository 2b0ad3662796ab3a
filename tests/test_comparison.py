from dataclasses import replace

import numpy as np
import pytest

from harness.along import Scope
from harness.calibration import Floor
from harness.choice import Choosing
from harness.comparison import Place, compare
from harness.families.options import Experts
from harness.taps import Tap
from harness.tolerances import LIMITS, limit
from harness.verdict import overall

TAP = Tap("layers.0.q", ("batch", "position", "hidden"), ())
LOGITS = Tap("logits", ("batch", "position", "vocab"), ())
UNIT = 2.0**-24


def run(actual, truth, noise=None, tap=TAP, precision="float32", dtype="float32"):
    return compare(Place("case", precision, "replay", tap), actual, truth, noise, limit(precision), dtype)


def floor(size, shape=(1, 6), dof=8.0, known=1e9, single=False):
    """PyTorch's own error, of one size at every position."""
    same = np.full(shape, float(size))
    return Floor(
        same,
        same,
        np.full(shape, dof),
        np.full(shape, known),
        *(np.full(shape, x) for x in (dof, dof / 8, known)),
        same,
        np.full(shape, single),
    )


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
    place, noise = Place("c", "float32", "forward", TAP), floor(1e-3)
    allowed = limit("float32").of(noise, np.ones((1, 6), bool))
    assert (allowed.rms > allowed.overall).all()  # so that one position alone meets its own limit
    for share, verdict in ((0.98, "match"), (1.02, "diverged")):
        actual = truth.copy()
        actual[0, 3] += share * allowed.rms[0, 3] * 1e-3
        found = compare(place, actual, truth, noise, limit("float32"), "float64")
        assert found.verdict == verdict
        assert found.rms_multiple == pytest.approx(share * found.rms_limit)
        assert found.rms_limit == pytest.approx(allowed.rms[0, 3])
        assert found.share == pytest.approx(share)


def test_where_every_position_is_too_noisy_all_of_them_together_are_beyond_their_limit():
    truth = values((1, 200, 8)).astype(np.float64)
    place, noise = Place("c", "bfloat16", "forward", TAP), floor(1.0, (1, 200))
    allowed = limit("bfloat16").of(noise, np.ones((1, 200), bool))
    found = compare(place, truth + 1.02 * allowed.overall, truth, noise, limit("bfloat16"), "float64")
    assert found.verdict == "diverged"
    assert found.shares[2] == found.share == pytest.approx(1.02)
    assert found.rms_multiple < found.rms_limit
    assert (
        compare(place, truth + 0.98 * allowed.overall, truth, noise, limit("bfloat16"), "float64").verdict
        == "match"
    )


def test_the_users_factors_are_factors():
    truth = values().astype(np.float64)
    place, noise = Place("c", "float32", "forward", TAP), floor(1e-3)
    plain = compare(place, truth, truth, noise, limit("float32"), "float64")
    wide = compare(place, truth, truth, noise, limit("float32", rms=2.0, max_abs=3.0), "float64")
    assert wide.rms_limit == pytest.approx(2 * plain.rms_limit)
    assert wide.overall_limit == pytest.approx(2 * plain.overall_limit)
    assert wide.max_limit == pytest.approx(3 * plain.max_limit)


def test_in_float64_one_number_is_the_limit_everywhere():
    truth = values().astype(np.float64)
    rms = np.sqrt(np.square(truth).mean(axis=-1, keepdims=True))

    def off(multiple):
        return run(truth + multiple * 2.0**-53 * rms, truth, precision="float64", dtype="float64")

    assert (off(0.9e5).verdict, off(1.1e5).verdict) == ("match", "diverged")
    assert off(0.9e5).rms_limit == 1e5


def test_two_runs_of_a_port_may_differ_by_twice_what_one_may_be_off():
    """The triangle inequality: two that are each just within the limit, on either side of the truth, agree."""
    truth, noise = values().astype(np.float64), floor(1e-3)
    overall = limit("float32").of(noise, np.ones((1, 6), bool)).overall
    one, other = truth + 0.98e-3 * overall, truth - 0.98e-3 * overall
    place = Place("c", "float32", "prefill", TAP)
    apart = compare(place, one, other, noise, limit("float32"), "float64")
    assert (apart.verdict, apart.overall_multiple) == ("match", pytest.approx(0.98 * overall))
    assert compare(place, one + 1e-4 * overall, other, noise, limit("float32"), "float64").verdict == "diverged"
    forward = replace(place, mode="forward")
    assert compare(forward, one, other, noise, limit("float32"), "float64").overall_multiple == pytest.approx(
        2 * 0.98 * overall
    )


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
    noise = floor(1e-3)
    assert run(truth + 3e-3, truth, noise, dtype="float64").verdict == "match"
    assert run(truth + 50e-3, truth, noise, dtype="float64").verdict == "diverged"
    assert run(truth + 50e-3, truth, noise, dtype="float64").noise_max == 1e-3
    assert run(truth + 50e-3, truth, noise, dtype="float64").chance < 1e-9


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
    noise = floor(1e-3, (1, 2))
    result = run(actual, truth, noise, tap=LOGITS, dtype="float64")
    assert result.logits is not None
    tie, flip = result.logits.flips
    assert (tie.position, tie.golden, tie.actual, tie.tie) == (0, 0, 1, True)
    assert (flip.position, flip.tie, flip.margin) == (1, False, 1.0)
    assert result.logits.top1_agreement == 0.0


ROUTING = Tap("layers.0.routing", ("batch", "position", "expert"), ("layers.0.router_logits",))
EXPERTS = Experts(layers=(True,), count=4, chosen=2, intermediate=4)
SCORES = np.tile([3.0, 1.0, 0.9, 0.0], (2, 3, 1))
WEIGHTS = np.tile([0.8, 0.2, 0.0, 0.0], (2, 3, 1))


def of_weights(actual, allowed=0.06, counted=True, dtype="float64"):
    scope = Scope(np.full((2, 3), counted), np.arange(3))
    choosing = Choosing(EXPERTS, SCORES, np.full((2, 3), allowed))
    place = Place("batch", dtype, "forward", ROUTING)
    limits = limit(dtype)
    return compare(place, actual, WEIGHTS, None, limits, dtype, scope, choosing=choosing)


def other_choice(*tokens, to=(0.8, 0.0, 0.2, 0.0)):
    actual = WEIGHTS.copy()
    for token in tokens:
        actual[token] = to
    return actual


def test_the_weights_of_a_tie_are_not_compared_and_it_is_counted():
    found = of_weights(other_choice((1, 2)))
    assert (found.verdict, found.rms_multiple) == ("match", 0.0)
    assert (found.choice.tokens, found.choice.ties) == (6, 1)
    assert found.row == 0


def test_a_wrong_weight_beside_a_tie_diverges():
    actual = other_choice((1, 2))
    actual[0, 1, 0] += 0.1
    assert of_weights(actual).verdict == "diverged"


def test_another_choice_beyond_the_noise_diverges_however_small_its_weight():
    found = of_weights(other_choice((1, 2), to=(0.8, 0.2, 0.0, 1e-30)))
    assert found.verdict == "diverged" and found.rms_multiple < found.rms_limit
    assert (found.choice.wrong, found.wrong_rows) == (1, (1,))


def test_where_every_token_is_a_tie_nothing_matches_and_nothing_is_wrong():
    found = of_weights(np.tile([0.8, 0.0, 0.2, 0.0], (2, 3, 1)))
    assert (found.verdict, found.rms_multiple, found.choice.ties) == ("tied", None, 6)
    assert overall([found]) == "diverged"
    assert overall([found, of_weights(WEIGHTS)]) == "match"


def test_a_drop_diverges_and_says_what_is_lacking_where():
    found = of_weights(other_choice((1, 2), (1, 1), to=(0.8, 0.0, 0.0, 0.0)))
    assert (found.verdict, found.choice.dropped, found.choice.ties) == ("diverged", 2, 0)
    assert [(d.expert, d.row, d.positions) for d in found.choice.drops] == [(1, 1, (1, 2))]


def test_how_tokens_are_shared_out_may_be_wider_than_the_model():
    found = of_weights(WEIGHTS.astype(np.float32), dtype="bfloat16")
    assert (found.verdict, found.expected) == ("match", None)
    narrow = of_weights(WEIGHTS.astype(np.float32), dtype="float64")
    assert narrow.verdict == "dtype"


def test_where_a_token_is_a_call_of_its_own_one_long_sum_is_no_bug():
    """4.5 times PyTorch's error: a bug among other tokens, and what XLA's vector products come to."""
    truth = np.ones((1, 6, 8))
    place = Place("case", "float32", "forward", TAP)

    def found(single, times, precision="float32"):
        noise = floor(1e-6, dof=1e6, single=single)
        return compare(
            replace(place, precision=precision), truth + times * 1e-6, truth, noise, LIMITS[precision], "float64"
        )

    assert found(False, 4.5).verdict == "diverged"
    alone = found(True, 4.5)
    assert alone.verdict == "match"
    assert alone.rms_limit == pytest.approx(LIMITS["float32"].single, rel=0.01)
    assert alone.chance > 1e-3 > found(False, 4.5).chance
    assert found(True, 5.7).verdict == "diverged"
    # All positions together: of each the allowance that it has.
    steps = floor(1e-6, dof=1e6, single=np.arange(6) >= 3)
    overall = limit("float32").of(steps, np.ones((1, 6), bool)).overall
    assert overall == pytest.approx(np.sqrt((3.2**2 + 5.2**2) / 2), rel=0.05)
