"""Each fact on arrays in which it is true, and on arrays in which it is not."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from harness.mutants.diagnosis import facts

RANDOM = np.random.default_rng(0)
GOLDEN = RANDOM.normal(size=(1, 9, 6, 8))  # batch, position, head, head_dim
OTHER = GOLDEN + RANDOM.normal(size=GOLDEN.shape)
TWO = RANDOM.permutation(GOLDEN.reshape(-1)).reshape(GOLDEN.shape)


def test_a_factor_is_found_with_what_it_leaves():
    found = facts.factor(0.25 * GOLDEN, GOLDEN)
    assert found.value == pytest.approx(0.25)
    assert found.left < 1e-25
    assert facts.factor(-GOLDEN, GOLDEN).value == pytest.approx(-1)


@pytest.mark.parametrize("actual", [OTHER, TWO, GOLDEN + 1, GOLDEN])
def test_a_factor_that_explains_little_is_no_fact(actual):
    assert facts.factor(actual, GOLDEN) is None


def test_a_factor_for_each_feature_is_a_weight():
    weights = np.linspace(0.5, 2, 8)
    assert facts.factor_per_feature(GOLDEN * weights, GOLDEN) == pytest.approx(weights)
    assert facts.factor_per_feature(OTHER, GOLDEN) is None


def test_three_rows_are_too_few_for_a_factor_of_each_feature():
    few = GOLDEN[:, :1, :3]
    assert facts.factor_per_feature(few * np.linspace(0.5, 2, 8), few) is None


def test_an_offset_is_one_number_everywhere():
    assert facts.offset(GOLDEN + 3, GOLDEN) == pytest.approx(3)
    assert facts.offset(OTHER, GOLDEN) is None
    assert facts.offset(GOLDEN, GOLDEN) is None


def test_the_same_vector_at_every_position_is_a_bias():
    bias = RANDOM.normal(size=(6, 8))
    assert facts.same_everywhere(GOLDEN + bias, GOLDEN, position_axis=1)
    assert not facts.same_everywhere(OTHER, GOLDEN, position_axis=1)
    growing = bias * np.arange(9)[:, None, None]
    assert not facts.same_everywhere(GOLDEN + growing, GOLDEN, position_axis=1)


def test_two_positions_do_not_show_that_a_vector_is_the_same_everywhere():
    few = GOLDEN[:, :2]
    assert not facts.same_everywhere(few + RANDOM.normal(size=(6, 8)), few, position_axis=1)


@pytest.mark.parametrize("axis", [2, 3])
def test_another_order_is_found_and_named(axis):
    order = np.random.default_rng(1).permutation(GOLDEN.shape[axis])
    found = facts.permutation(np.take(GOLDEN, order, axis), GOLDEN, axis)
    assert found.order == tuple(order)


@pytest.mark.parametrize("actual", [GOLDEN, OTHER, TWO, 2 * GOLDEN])
def test_the_same_order_and_no_order_are_no_permutation(actual):
    assert facts.permutation(actual, GOLDEN, 2) is None


def test_equal_rows_are_not_called_exchanged():
    same = np.broadcast_to(GOLDEN[:, :, :1], GOLDEN.shape)
    assert facts.permutation(same + 0.0, same, 2) is None


def test_clean_heads_are_those_whose_error_is_rounding():
    actual = GOLDEN.copy()
    actual[:, :, [1, 4]] += 1
    assert facts.clean_along(actual, GOLDEN, 2, floor=1e-9) == (0, 2, 3, 5)
    assert facts.clean_along(GOLDEN, GOLDEN, 2, floor=1e-9) is None
    assert facts.clean_along(OTHER, GOLDEN, 2, floor=1e-9) is None


def test_a_rotation_keeps_lengths_and_a_scale_does_not():
    angle = 0.7
    first, second = np.split(GOLDEN, 2, -1)
    turned = np.concatenate(
        [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)], -1
    )
    assert facts.lengths_kept(turned, GOLDEN)
    assert not facts.lengths_kept(1.01 * turned, GOLDEN)
    assert not facts.lengths_kept(OTHER, GOLDEN)


@pytest.mark.parametrize(
    ("dtype", "name"), [(ml_dtypes.bfloat16, "bfloat16"), (np.float16, "float16"), (np.float32, "float32")]
)
def test_values_that_were_rounded_are_recognized(dtype, name):
    assert facts.fits_in(GOLDEN.astype(np.float32).astype(dtype).astype(np.float64)) == name


def test_values_that_were_not_rounded_fit_in_nothing_narrower():
    assert facts.fits_in(GOLDEN) is None
    assert facts.fits_in(np.zeros((2, 8))) is None


@pytest.mark.parametrize(
    ("relative", "name"),
    [(2.0**-9, "bfloat16"), (2.0**-12, "tf32 or float16"), (2.0**-25, "float32"), (0.5, None), (1e-12, None)],
)
def test_an_error_is_as_large_as_the_rounding_of_a_type(relative, name):
    assert facts.rounding_sized(relative) == name


def test_probabilities_ahead_of_the_query_and_sums_that_are_not_1():
    causal = np.tril(np.ones((1, 2, 4, 4)))
    right = causal / causal.sum(-1, keepdims=True)
    assert facts.mass_ahead(right) == 0
    assert facts.sums(right) == pytest.approx((1, 1))
    everything = np.full((1, 2, 4, 4), 0.25)
    assert facts.mass_ahead(everything) == 0.25
    assert facts.sums(everything / 2) == (0.5, 0.5)


def test_runs_of_indices_are_written_as_a_person_writes_them():
    assert facts.runs((0, 2, 3, 4, 9)) == "0, 2-4, 9"
    assert facts.runs(()) == ""
