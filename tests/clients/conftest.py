"""What the models of strangers need while they are checked."""

from __future__ import annotations

import jax
import pytest


@pytest.fixture(autouse=True)
def default_promotion():
    """Keras, Haliax and EasyDeL promote as JAX does by default."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
