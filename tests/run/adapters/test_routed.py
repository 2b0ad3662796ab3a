"""A choice of experts as weights and indices: marked as one weight for every expert, replaced by the golden's."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from harness.errors import PortError
from harness.run.adapters import Routed, normed
from harness.run.adapters.routed import marked_choice, spread

WEIGHTS = jnp.array([[[0.3, 0.1], [0.2, 0.2]]])
INDICES = jnp.array([[[3, 0], [1, 2]]])
DENSE = np.array([[[0.25, 0, 0, 0.75], [0, 0.5, 0.5, 0]]], np.float32)
ROUTED = Routed("layers.{i}.routing", weigh=normed)


def test_the_tap_has_a_weight_for_every_expert_and_what_goes_on_is_what_was():
    found = marked_choice(ROUTED, 4, lambda value: value, (WEIGHTS, INDICES, "more"), "row")
    assert np.array_equal(found[0], WEIGHTS) and np.array_equal(found[1], INDICES) and found[2] == "more"
    assert np.allclose(spread(normed(WEIGHTS), INDICES, 4), DENSE)


def test_where_the_golden_differs_the_model_goes_on_with_its_experts():
    golden = DENSE.copy()
    golden[0, 1] = [0.6, 0, 0.4, 0]
    weights, indices = marked_choice(ROUTED, 4, lambda value: jnp.asarray(golden), (WEIGHTS, INDICES), "row")
    assert np.array_equal(indices, [[[3, 0], [0, 2]]])
    assert np.allclose(weights[0, 1], [0.6, 0.4]) and np.array_equal(weights[0, 0], WEIGHTS[0, 0])


def test_a_result_of_another_type_is_of_that_type():
    class Chosen(NamedTuple):
        weights: object
        indices: object

    found = marked_choice(ROUTED, 4, lambda value: value, Chosen(WEIGHTS, INDICES), "row")
    assert isinstance(found, Chosen)


@pytest.mark.parametrize("result", [WEIGHTS, (WEIGHTS,), (INDICES, WEIGHTS), (WEIGHTS, None)])
def test_what_is_no_choice_is_refused(result):
    with pytest.raises(PortError, match="does not return weights and indices"):
        marked_choice(ROUTED, 4, lambda value: value, result, "row")
