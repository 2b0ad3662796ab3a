"""A model's own int32 counters beside Python's numbers in a float64 check, which JAX refuses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from harness.run.adapters.running import alike_indices


def put(buffer, new, end):
    return lax.dynamic_update_slice(buffer, new, (end, 0))


def at(buffer, end):
    return lax.dynamic_slice(buffer, start_indices=(end, 0), slice_sizes=(1, 2))


@pytest.mark.parametrize("around", [jax.jit, jax.vmap])
def test_indices_of_several_integer_types_are_taken_as_the_widest(around):
    buffer, new, end = jnp.zeros((2, 4, 2)), jnp.ones((2, 1, 2)), jnp.array([1, 3], jnp.int32)
    if around is jax.jit:
        buffer, new, end = buffer[0], new[0], end[0]
    with jax.enable_x64(True):
        with pytest.raises(TypeError, match="int32"):
            around(put)(buffer, new, end)
        with alike_indices():
            found = around(put)(buffer, new, end)
            np.testing.assert_array_equal(around(at)(found, end), new)
        assert float(found.sum()) == new.size
        with pytest.raises(TypeError, match="int32"):  # and afterwards it is JAX's own again
            around(lambda *given: put(*given))(buffer, new, end)


def test_what_is_no_integer_is_refused_as_ever_and_in_float32_nothing_is_replaced():
    with jax.enable_x64(True), alike_indices(), pytest.raises(TypeError):
        put(jnp.zeros((4, 2)), jnp.ones((1, 2)), jnp.float32(1))
    before = lax.dynamic_slice
    with alike_indices():
        assert lax.dynamic_slice is before
