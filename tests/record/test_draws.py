"""Several draws of PyTorch's rounding: what is nudged, and how the draws become the statistics of a golden."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

import torch

from harness.golden import NOISE_PRECISIONS, NOISE_STATISTICS
from harness.record.noise import BITS, DTYPES, noise_floors, nudged
from harness.taps import Tap

TAP = Tap("layers.0.act", ("batch", "position", "intermediate"), ())
HEADS = Tap("layers.0.probs", ("batch", "head", "position", "key"), ())
PRECISION = pytest.mark.parametrize("precision", NOISE_PRECISIONS)


def statistics(errors, tap=TAP):
    """By name, [batch, position]: of errors [draw, ...] that are exact in float32."""
    errors = torch.as_tensor(np.asarray(errors), dtype=torch.float32)
    truth = {tap.kind: torch.zeros(errors.shape[1:], dtype=torch.float64)}
    floors = noise_floors([{tap.kind: error} for error in errors], truth, [tap], "float32 forward")
    assert floors.dtype == np.float32 and floors.shape[:2] == (1, len(NOISE_STATISTICS))
    return dict(zip(NOISE_STATISTICS, floors[0], strict=True))


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# -- how draws combine


def test_rms_and_max_are_roots_of_means_of_squares_over_the_draws():
    errors = gaussian(4, 2, 5, 24)
    found, wide = statistics(errors), errors.astype(np.float64)
    rms = np.sqrt(np.mean(wide**2, axis=(0, 3)))
    largest = np.sqrt(np.mean(np.abs(wide).max(-1) ** 2, axis=0))
    np.testing.assert_allclose(found["rms"], rms, rtol=1e-6)
    np.testing.assert_allclose(found["max"], largest, rtol=1e-6)
    assert (largest < np.abs(wide).max((0, 3))).all(), "which is not the largest of all"


def test_spread_is_the_variance_of_the_logarithm_of_the_mean_square_over_the_draws():
    errors = gaussian(4, 2, 5, 24, seed=1)
    logs = np.log(np.mean(errors.astype(np.float64) ** 2, axis=3))
    np.testing.assert_allclose(statistics(errors)["spread"], logs.var(0, ddof=1), rtol=1e-5)


def test_draws_that_differ_by_a_known_factor_have_its_spread():
    errors = np.stack([gaussian(1, 3, 8), np.e * gaussian(1, 3, 8)])  # mean squares e^2 apart
    np.testing.assert_allclose(statistics(errors)["spread"], 2, rtol=1e-5)


def test_one_draw_has_no_spread():
    assert not statistics(gaussian(1, 2, 5, 24))["spread"].any()


def test_a_draw_without_any_error_beside_one_that_has_is_spread_and_finite():
    found = statistics(np.stack([np.zeros((1, 1, 8)), np.ones((1, 1, 8))]))
    np.testing.assert_allclose(found["spread"], np.log(1e-6) ** 2 / 2, rtol=1e-5)
    np.testing.assert_allclose(found["rms"], np.sqrt(0.5), rtol=1e-6)


def test_without_any_error_there_is_no_spread_and_at_least_one_number():
    found = statistics(np.zeros((4, 2, 5, 24)))
    assert not found["rms"].any() and not found["max"].any() and not found["spread"].any()
    assert (found["numbers"] >= 1).all()


def test_numbers_are_all_of_them_where_errors_are_gaussian():
    found = statistics(gaussian(4, 1, 3, 50_000))["numbers"]
    assert (found > 0.97 * 50_000).all() and (found <= 50_000).all()


def test_numbers_is_three_where_a_single_number_has_all_of_the_error_however_many_there_are():
    for size in (3, 24, 1000):
        errors = np.zeros((2, 1, 3, size))
        errors[..., 2] = 0.5
        np.testing.assert_allclose(statistics(errors)["numbers"], 3, rtol=1e-6)


def test_numbers_is_between_one_and_how_many_there_are():
    assert (statistics(np.ones((2, 1, 3, 2)))["numbers"] == 2).all()
    assert (statistics(np.ones((2, 1, 3, 1)))["numbers"] == 1).all()


def test_numbers_is_the_mean_of_the_ratio_over_the_draws():
    errors = gaussian(3, 1, 4, 24, seed=2)
    wide = errors.astype(np.float64)
    ratio = 3 * (wide**2).sum(-1) ** 2 / (wide**4).sum(-1)
    np.testing.assert_allclose(statistics(errors)["numbers"], np.clip(ratio.mean(0), 1, 24), rtol=1e-6)


def test_positions_are_told_apart_wherever_their_axis_is():
    errors = np.zeros((2, 1, 3, 4, 4), np.float32)  # draw, batch, head, position, key
    errors[:, :, :, 2] = 5
    found = statistics(errors, HEADS)
    assert found["rms"].tolist() == found["max"].tolist() == [[0, 0, 5, 0]]
    assert found["numbers"][0, 2] == 12


# -- what is nudged


@PRECISION
def test_a_nudge_moves_one_value_in_eight_by_one_unit_in_the_last_place_both_ways(precision):
    value = torch.from_numpy(gaussian(400, 500)).to(DTYPES[precision])
    moved = nudged(value, "seed")
    assert moved.dtype == value.dtype and moved.shape == value.shape
    bits = BITS[value.dtype]
    steps = moved.view(bits).long() - value.view(bits).long()
    assert set(steps.unique().tolist()) == {-1, 0, 1}
    for step in (-1, 1):
        share = (steps == step).double().mean().item()
        assert abs(share - 1 / 16) < 0.004, f"half of one in eight: {share}"
    assert torch.equal(moved == value, steps == 0)


@PRECISION
def test_a_nudge_is_the_same_on_every_run_and_another_with_another_seed(precision):
    value = torch.from_numpy(gaussian(40, 50)).to(DTYPES[precision])
    before = value.clone()
    assert torch.equal(nudged(value, "a"), nudged(value, "a"))
    assert not torch.equal(nudged(value, "a"), nudged(value, "b"))
    assert torch.equal(value, before), "what is nudged is not changed itself"
    torch.manual_seed(5)
    first = torch.rand(1)
    torch.manual_seed(5)
    nudged(value, "a")
    assert torch.equal(first, torch.rand(1)), "nor is torch's own generator"


@PRECISION
def test_a_zero_stays_what_it_is(precision):
    zeros = torch.tensor([0.0, -0.0]).repeat(500).to(DTYPES[precision])
    bits = BITS[zeros.dtype]
    assert torch.equal(nudged(zeros, "seed").view(bits), zeros.view(bits))


@PRECISION
def test_a_nudge_goes_by_the_values_and_not_by_how_they_lie(precision):
    value = torch.from_numpy(gaussian(40, 50)).to(DTYPES[precision])
    assert torch.equal(nudged(value.T.contiguous().T, "seed"), nudged(value, "seed"))
