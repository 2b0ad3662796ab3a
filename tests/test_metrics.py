import math
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness import logits, metrics

ARRAYS = hnp.arrays(np.float64, (2, 3, 4), elements=st.floats(-1e3, 1e3))


@settings(max_examples=50, deadline=None)
@given(ARRAYS, ARRAYS)
def test_errors_agree_with_a_naive_second_implementation(actual, expected):
    found = metrics.errors(actual, expected, position_axis=1)
    for b in range(2):
        for s in range(3):
            row = [abs(float(actual[b, s, i]) - float(expected[b, s, i])) for i in range(4)]
            assert found.rms[b, s] == pytest.approx(math.sqrt(sum(x * x for x in row) / 4))
            assert found.max[b, s] == max(row)
    flat = [abs(float(a) - float(e)) for a, e in zip(actual.ravel(), expected.ravel(), strict=True)]
    assert found.max_abs == max(flat)
    assert found.mean_abs == pytest.approx(sum(flat) / len(flat))
    assert abs(actual[found.worst] - expected[found.worst]) == max(flat)


def kl_divergence(actual, expected):
    """KL(softmax(expected) || softmax(actual)) at every position."""
    rows = (one.reshape(-1, one.shape[-1]) for one in (actual, expected))
    return logits.predictions(*rows).kl.reshape(expected.shape[:-1])


def test_the_position_axis_of_probabilities_is_the_query():
    actual, expected = np.zeros((1, 2, 3, 3)), np.zeros((1, 2, 3, 3))
    actual[0, 1, 2, 0] = 1.0
    found = metrics.errors(actual, expected, position_axis=2)
    assert found.max.tolist() == [[0.0, 0.0, 1.0]]
    assert found.worst == (0, 1, 2, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_an_infinite_error_never_nan(bad):
    actual, expected = np.zeros((1, 2, 3)), np.ones((1, 2, 3))
    actual[0, 1, 2] = bad
    found = metrics.errors(actual, expected, position_axis=1)
    assert found.max_abs == found.mean_abs == found.relative_rms == np.inf
    assert found.rms.tolist() == [[1.0, np.inf]]
    assert found.worst == (0, 1, 2)
    assert kl_divergence(actual, expected).tolist() == [[0.0, np.inf]]


def test_unsigned_zero_against_one_differs_by_one_not_255():
    found = metrics.errors(np.zeros((1, 1, 1), np.uint8), np.ones((1, 1, 1)), position_axis=1)
    assert found.max_abs == 1.0


UNIT = metrics.UNIT_ROUNDOFF["float32"]


def test_the_floor_is_never_below_half_an_ulp_of_the_values():
    one = np.ones((1, 1))
    assert metrics.noise_floor(0 * one, one, UNIT).item() == UNIT
    assert metrics.noise_floor(4 * UNIT * one, one, UNIT).item() == 4 * UNIT


def test_an_error_where_nothing_is_allowed_is_infinite_and_none_is_zero():
    zero, one = np.zeros((1, 1)), np.ones((1, 1))
    assert metrics.noise_multiple(one, zero).item() == np.inf
    assert metrics.noise_multiple(zero, zero).item() == 0.0
    assert metrics.noise_multiple(3 * one, 2 * one).item() == 1.5


def test_unit_roundoff_is_half_the_gap_above_one():
    assert metrics.UNIT_ROUNDOFF["float64"] == np.finfo(np.float64).eps / 2
    assert metrics.UNIT_ROUNDOFF["float32"] == np.finfo(np.float32).eps / 2
    import ml_dtypes

    assert metrics.UNIT_ROUNDOFF["bfloat16"] == float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps) / 2


def test_pearson_is_numpys_and_none_where_it_is_undefined():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=20), rng.normal(size=20)
    assert metrics.pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert metrics.pearson(np.ones(5), y[:5]) is None
    assert metrics.pearson(x[:1], y[:1]) is None
    assert metrics.pearson(np.array([0.0, np.inf]), np.array([0.0, 1.0])) is None


def test_a_doubled_tensor_has_perfect_pcc_and_a_bad_nmse():
    """Why PCC alone is no check: it cannot see a factor."""
    x = np.random.default_rng(0).normal(size=(2, 8))
    assert metrics.pcc(2 * x, x) == pytest.approx(1.0)
    assert metrics.errors(2 * x, x, position_axis=1).nmse == pytest.approx(1.0)


def test_kl_agrees_with_a_naive_second_implementation():
    rng = np.random.default_rng(1)
    actual, expected = rng.normal(size=(1, 2, 5)), rng.normal(size=(1, 2, 5))
    found = kl_divergence(actual, expected)
    for s in range(2):
        p = [math.exp(v) for v in expected[0, s]]
        q = [math.exp(v) for v in actual[0, s]]
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        assert found[0, s] == pytest.approx(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    assert kl_divergence(expected, expected).max() == 0.0


def test_growth_is_seen_and_noise_is_not():
    rng = np.random.default_rng(2)
    assert metrics.growth_p_value(np.arange(20.0)) == 0.001
    assert metrics.growth_p_value(rng.permutation(np.arange(20.0))) > 0.01
    assert metrics.growth_p_value(np.arange(20.0)[::-1]) == 1.0
    assert metrics.growth_p_value(np.arange(3.0)) is None
    assert metrics.growth_p_value(np.array([1, 2, np.inf, 4.0])) is None


def test_many_numbers_are_shared_out_among_threads_and_give_the_same_to_the_last_bit(monkeypatch):
    rng = np.random.default_rng(3)
    actual, expected = rng.normal(size=(2, 2, 9, 50)).astype(np.float32), rng.normal(size=(2, 2, 9, 50))
    actual[1, 0, 4, 7] = np.nan
    sides = actual[0].reshape(-1, 50), expected[0].reshape(-1, 50)
    monkeypatch.setattr(metrics, "BLOCK", 100)
    threads = set()

    def watched(here):
        threads.add(threading.current_thread() is threading.main_thread())
        return here

    def everything():
        found, predicted = metrics.errors(actual, expected, position_axis=2), logits.predictions(*sides)
        return vars(found) | vars(predicted) | {"pcc": metrics.pcc(*sides)}

    one, blocks = everything(), [slice(n, n + 1) for n in range(20)]
    assert list(metrics.each(watched, 20, 1, 20)) == blocks
    assert threads == {True}
    monkeypatch.setattr(metrics, "MANY", 1)
    assert list(metrics.each(watched, 20, 1, 20)) == blocks
    assert threads == {True, False}
    for name, value in everything().items():
        np.testing.assert_array_equal(value, one[name])
    assert one["worst"] == (1, 0, 4, 7)
