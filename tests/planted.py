"""Bugs planted in the built-in decoder, one per operation, with the taps where each must be introduced.

An operation bug replaces one operation; a weight bug changes parameters on the way in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from harness.run.decoder import Decoder
from harness.run.operations import OPERATIONS, Operations, inverse_frequencies, rms_norm, wide
from harness.run.weights import Weights


@dataclass(frozen=True)
class Bug:
    """A planted bug: `kinds` are the taps, without layer, where replay must find it and nowhere else."""

    name: str
    kinds: frozenset[str]
    operations: Operations = OPERATIONS
    weights: Callable[[str, jax.Array], jax.Array] | None = None
    rename: Callable[[str], str] | None = None
    layers: tuple[int, ...] | None = None  # where it must show, if not in all layers


def _interleaved(x, angles):
    cos, sin = jnp.cos(angles).astype(x.dtype)[:, :, None], jnp.sin(angles).astype(x.dtype)[:, :, None]
    even, odd = x[..., ::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1).reshape(x.shape)


def _tile_kv(x, groups):
    return jnp.tile(x, (1, 1, groups, 1))


def _eps_outside(x, weight, eps):
    y = x.astype(wide(x.dtype))
    y = y / (jnp.sqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True)) + eps)
    return weight * y.astype(x.dtype)


def _bidirectional(mask, slots):
    return jnp.broadcast_to(mask[:, None, None, :], (mask.shape[0], 1, len(slots), mask.shape[1]))


def _gelu(gate, up):
    return jax.nn.gelu(gate, approximate=False) * up


def _layer_below(name: str) -> str:
    """Layer 2 gets layer 1's weights."""
    return name.replace("model.layers.2.", "model.layers.1.")


def _without_bias(parameter: str) -> Callable[[str, jax.Array], jax.Array]:
    return lambda name, value: jnp.zeros_like(value) if name.endswith(parameter) else value


def _transposed(parameter: str) -> Callable[[str, jax.Array], jax.Array]:
    return lambda name, value: value.T if name.endswith(parameter) else value


def _ops(**changed: Callable[..., object]) -> Operations:
    return replace(OPERATIONS, **changed)


def _kinds(*names: str) -> frozenset[str]:
    return frozenset(names)


LAYER_KINDS = _kinds(
    *("attn_norm", "q", "k", "v", "attn_out", "mlp_norm", "gate", "up", "mlp_out"),
)

BUGS = (
    Bug(
        "norm_eps",
        _kinds("attn_norm", "mlp_norm"),
        _ops(attn_norm=lambda x, w, eps: rms_norm(x, w, 1e-5), mlp_norm=lambda x, w, eps: rms_norm(x, w, 1e-5)),
    ),
    Bug("norm_eps_outside", _kinds("attn_norm"), _ops(attn_norm=_eps_outside)),
    Bug("rope_interleaved", _kinds("q_rope", "k_rope"), _ops(rotate_q=_interleaved, rotate_k=_interleaved)),
    Bug(
        "rope_theta",
        _kinds("q_rope", "k_rope"),
        _ops(inverse_frequencies=lambda theta, dim: inverse_frequencies(1e4, dim)),
    ),
    Bug(
        "rope_missing",
        _kinds("q_rope", "k_rope"),
        _ops(rotate_q=lambda x, angles: x, rotate_k=lambda x, angles: x),
    ),
    Bug("rope_only_q", _kinds("k_rope"), _ops(rotate_k=lambda x, angles: x)),
    Bug("causal_mask_missing", _kinds("probs"), _ops(allowed=_bidirectional)),
    Bug("scale_missing", _kinds("probs"), _ops(scores=lambda q, k: jnp.einsum("bqhd,bkhd->bhqk", q, k))),
    Bug("gqa_tiled", _kinds("probs", "context"), _ops(repeat_k=_tile_kv, repeat_v=_tile_kv)),
    Bug("q_bias_missing", _kinds("q"), weights=_without_bias("q_proj.bias")),
    Bug("k_bias_missing", _kinds("k"), weights=_without_bias("k_proj.bias")),
    Bug("v_bias_missing", _kinds("v"), weights=_without_bias("v_proj.bias")),
    Bug("q_transposed", _kinds("q"), weights=_transposed("q_proj.weight")),
    Bug("o_transposed", _kinds("attn_out"), weights=_transposed("o_proj.weight")),
    Bug("activation_gelu", _kinds("act"), _ops(gated=_gelu)),
    Bug("gate_up_swapped", _kinds("act"), _ops(gated=lambda gate, up: jax.nn.silu(up) * gate)),
    Bug("attn_residual_missing", _kinds("resid_mid"), _ops(attn_residual=lambda x, update: update)),
    Bug("mlp_residual_halved", _kinds("resid_post"), _ops(mlp_residual=lambda x, update: x + update / 2)),
    Bug("final_norm_missing", _kinds("final_norm"), _ops(final_norm=lambda x, w, eps: x)),
    Bug("embedding_off_by_one", _kinds("embed"), _ops(embed=lambda table, ids: table[jnp.maximum(ids - 1, 0)])),
    Bug("head_scaled", _kinds("logits"), _ops(head=lambda x, kernel, bias: (x @ kernel) / 8)),
    Bug("another_layers_weights", LAYER_KINDS, rename=_layer_below, layers=(2,)),
)


def load_with(bug: Bug):
    """A loader of the built-in decoder with the bug in it."""

    def load(checkpoint, config, dtype):
        decoder = Decoder.load(checkpoint, config, dtype, None, operations=bug.operations)
        decoder.weights = _ChangedWeights(decoder.weights, bug)
        return decoder

    return load


class _ChangedWeights:
    """Parameters on the way in, changed as the bug says."""

    def __init__(self, weights: Weights, bug: Bug) -> None:
        self._weights, self._bug, self.dtype = weights, bug, weights.dtype

    def read(self, name: str) -> jax.Array:
        value = self._weights.read(self._bug.rename(name) if self._bug.rename else name)
        return self._bug.weights(name, value) if self._bug.weights else value
