"""The mesh that a model is traced and run on, where the model asks JAX for it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import jax
from jax.sharding import Mesh


def on_mesh(mesh: Mesh) -> AbstractContextManager[Any]:
    """`jax.set_mesh`, for a port's `context`; also where the port itself is traced, to see its precision settings.

    Inside a trace JAX refuses `set_mesh`, since what is traced has no devices yet: there it is the mesh's shape.
    """
    try:
        found: AbstractContextManager[Any] = jax.set_mesh(mesh)
    except ValueError:
        found = jax.sharding.use_abstract_mesh(mesh.abstract_mesh)
    return found
