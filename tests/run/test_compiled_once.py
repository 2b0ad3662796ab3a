from __future__ import annotations

import jax
import jax.numpy as jnp

from tests.conftest import COMPILED


def test_what_tests_compile_is_kept_for_other_tests():
    jax.jit(lambda x: jnp.sin(x) * jnp.float32(20230824))(jnp.float32(1))
    assert any(COMPILED.shared.iterdir())
