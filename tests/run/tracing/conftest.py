from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def default_promotion_of_ranks(strict_promotion: None) -> Iterator[None]:
    """What is traced here are programs as users write them: they promote ranks as JAX does by default."""
    with jax.numpy_rank_promotion("allow"):
        yield
