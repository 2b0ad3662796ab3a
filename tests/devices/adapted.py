"""The nnx model of the tests on a mesh: its kernels are split, and nothing in it knows of that."""

from __future__ import annotations

import jax
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from harness.architecture import architecture_of
from tests.run.adapters.functions import parameters
from tests.run.adapters.nnx_model import Listed, Model

MODEL = "model"
AXES = (("data", 2), (MODEL, 4))
OUTPUTS, INPUTS = ("q", "k", "v", "gate", "up"), ("o", "down")


def where(path: tuple) -> P:
    """Where the parameter at a path of the model is."""
    if path[-1] != "kernel":
        return P()
    return P(None, MODEL) if path[-2] in OUTPUTS else P(MODEL) if path[-2] in INPUTS else P()


class OnMesh(Listed):
    @classmethod
    def load(cls, directory, config, dtype, mesh):
        model = Model(parameters(directory, dtype), architecture_of(config))
        graph, state = nnx.split(model)
        placed = [
            (path, leaf.replace(jax.device_put(leaf.get_value(), NamedSharding(mesh, where(path)))))
            for path, leaf in nnx.to_flat_state(state)
        ]
        return cls(nnx.merge(graph, nnx.from_flat_state(placed)), config, dtype)
