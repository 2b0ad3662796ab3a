"""Parameters of a Hugging Face checkpoint as JAX arrays, one layer at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from harness.checkpoint import Checkpoint
from harness.errors import CheckpointError

KEPT_BYTES = 32 * 2**20  # a small model is read once, and of a large one nothing is kept
# Path in the nnx module -> name in the checkpoint, under `model.layers.{i}.`. Kernels are stored transposed.
LAYER_PARAMETERS = {
    "attn_norm": "input_layernorm.weight",
    "attn.q.kernel": "self_attn.q_proj.weight",
    "attn.q.bias": "self_attn.q_proj.bias",
    "attn.k.kernel": "self_attn.k_proj.weight",
    "attn.k.bias": "self_attn.k_proj.bias",
    "attn.v.kernel": "self_attn.v_proj.weight",
    "attn.v.bias": "self_attn.v_proj.bias",
    "attn.o.kernel": "self_attn.o_proj.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "mlp.gate.kernel": "mlp.gate_proj.weight",
    "mlp.up.kernel": "mlp.up_proj.weight",
    "mlp.down.kernel": "mlp.down_proj.weight",
}


class Weights:
    """A checkpoint's parameters, converted to one dtype as they are read."""

    def __init__(self, checkpoint: Checkpoint, dtype: jnp.dtype) -> None:
        self.checkpoint = checkpoint
        self.dtype = dtype

    def read(self, name: str) -> Float[np.ndarray | Array, "..."]:
        """One parameter, as the checkpoint lays it out.

        Raises:
            CheckpointError: the checkpoint lacks it.
        """
        return np.asarray(self.checkpoint.read(name)).astype(self.dtype)


class ZeroWeights(Weights):
    """Zeros in the shapes of a checkpoint's parameters: enough to trace a model, and nothing is read."""

    def read(self, name: str) -> Float[np.ndarray | Array, "..."]:
        """Zeros in the shape of one parameter.

        Raises:
            CheckpointError: the checkpoint lacks it.
        """
        return jnp.zeros(self.checkpoint.shape(name), self.dtype)


class Kept:
    """Parameters that are read again each time they are asked for, unless they take next to no memory."""

    def __init__(self) -> None:
        self._kept: dict[str | int, Any] = {}
        self._bytes = 0

    def __call__(self, key: str | int, read: Callable[[], Any]) -> Any:
        """What `read` returns, or returned."""
        if key in self._kept:
            return self._kept[key]
        parameters = read()
        leaves = jax.tree.leaves(parameters)
        size = sum(leaf.nbytes for leaf in leaves)
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
        if self._bytes + size <= KEPT_BYTES and not traced:
            self._kept[key] = parameters
            self._bytes += size
        return parameters


def layer_state(weights: Weights, index: int, abstract: nnx.State) -> nnx.State:
    """The parameters of one layer, in the form of `abstract` (the shapes of a `DecoderLayer`).

    Raises:
        CheckpointError: a parameter is missing, or has another shape than the config says.
    """

    def load(path: tuple[str, ...], shape: jax.ShapeDtypeStruct) -> Array:
        name = f"model.layers.{index}.{LAYER_PARAMETERS['.'.join(path)]}"
        value = weights.read(name)
        value = jnp.asarray(value.T if path[-1] == "kernel" else value)
        if value.shape != shape.shape:
            raise CheckpointError(
                "a parameter does not have the shape that the config implies",
                where=name,
                expected=shape.shape,
                found=value.shape,
                hint="config.json and the weights must come from one checkpoint",
            )
        return value

    flat = nnx.to_flat_state(abstract)
    return nnx.from_flat_state([(path, leaf.replace(load(path, leaf.get_value()))) for path, leaf in flat])
