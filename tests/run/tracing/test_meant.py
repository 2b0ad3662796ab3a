"""Numbers that a narrow float has rounded: recognised where that is sound, and unknown everywhere else."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from harness.run.tracing.lift import meant, meant_all


@pytest.mark.parametrize(
    ("number", "form"),
    [
        (1e-6, ""),
        (0.044715, ""),
        (-1e9, ""),
        (1e6, ""),
        (2.0**-24, ""),
        (0.1, ""),
        *((n**-0.5, f"{n} ** -0.5") for n in (8, 32, 80, 96, 128, 896, 3584)),
        (48**0.5, "48 ** 0.5"),
        (128**-0.25, "128 ** -0.25"),
        (1 / 48, "1 / 48"),
        ((2 / np.pi) ** 0.5, "sqrt(2 / pi)"),
        (-np.log2(np.e), "-log2(e)"),
    ],
)
def test_a_number_of_float32_is_what_was_written(number, form):
    found = meant(np.float32(number))
    assert found is not None
    assert found.value == pytest.approx(number, rel=1e-15)
    assert found.form == form


def test_what_hides_a_score_is_taken_as_it_stands():
    for number in (np.finfo(np.float32).min, np.float32(-np.inf), np.float32(0)):
        assert meant(number).value == number


@pytest.mark.parametrize("number", [0.51006973, 1 / 3 + 1e-6, 0.7071068 * 1.0000002, 0.123456789])
def test_a_number_that_is_nothing_known_stays_unknown(number):
    assert meant(np.float32(number)) is None


def test_few_numbers_are_taken_for_what_they_are_not():
    rng = np.random.default_rng(0)
    numbers = np.exp(rng.uniform(-9, 9, 20_000)).astype(np.float32)
    assert np.mean([meant(number) is not None for number in numbers]) < 0.04


def test_of_bfloat16_only_what_has_few_digits_is_known():
    assert meant(ml_dtypes.bfloat16(1e-6)).value == 1e-6
    assert meant(ml_dtypes.bfloat16(8**-0.5)).value == 8**-0.5
    assert meant(ml_dtypes.bfloat16(0.7109375)) is None


def test_a_table_is_known_where_all_of_it_is():
    speeds = 1e4 ** (-np.arange(4) / 4)
    np.testing.assert_array_equal(meant_all(speeds.astype(np.float32)), speeds)
    assert meant_all((1e6 ** (-np.arange(4) / 4)).astype(np.float32)) is None


def test_parameters_that_bfloat16_holds_stand_for_themselves():
    stored = np.random.default_rng(0).normal(size=(300, 4)).astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(meant_all(stored), stored)
    assert meant_all(stored + np.float32(1e-6)) is None
