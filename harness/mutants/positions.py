"""Bugs of positions and of the precision in which RoPE counts them."""

from __future__ import annotations

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Array, Float, Int

from harness.families.frequencies import inverse_frequencies
from harness.mutants.free import decades
from harness.mutants.mutant import ROTATED, FreeValue, Mutant, NumericsChange, OperationChange, kinds
from harness.mutants.needs import PAIR, UNCOUNTED, UNEVEN_THETA, WIDE, beyond
from harness.run.operations import Angles, Heads, rope_angles, rotate

ANGLE = "position theta^(-2i / head_dim)"
RELATIVE = "logits depend on differences of positions alone"
Positions = Int[Array, "batch position"]
Frequencies = Float[np.ndarray, " half"]


def _shifted(value: float) -> OperationChange:
    return OperationChange({"rope_angles": lambda at, speed, dtype: rope_angles(at + round(value), speed, dtype)})


def _scaled(value: float) -> OperationChange:
    return OperationChange({"rope_angles": lambda at, speed, dtype: rope_angles(at, speed * value, dtype)})


def _counted(positions: Positions, frequencies: Frequencies, dtype: jnp.dtype) -> Angles:
    index = jnp.arange(positions.shape[1], dtype=positions.dtype)
    return rope_angles(jnp.broadcast_to(index, positions.shape), frequencies, dtype)


def _bfloat16_positions(positions: Positions, frequencies: Frequencies, dtype: jnp.dtype) -> Angles:
    return rope_angles(positions.astype(jnp.bfloat16), frequencies, dtype)


def _int16_positions(positions: Positions, frequencies: Frequencies, dtype: jnp.dtype) -> Angles:
    return rope_angles(positions.astype(jnp.int16), frequencies, dtype)


def _bfloat16_frequencies(theta: float, head_dim: int) -> Frequencies:
    return inverse_frequencies(theta, head_dim).astype(ml_dtypes.bfloat16).astype(np.float64)


def _bfloat16_theta(theta: float, head_dim: int) -> Frequencies:
    return inverse_frequencies(float(ml_dtypes.bfloat16(theta)), head_dim)


def _bfloat16_angles(positions: Positions, frequencies: Frequencies, dtype: jnp.dtype) -> Angles:
    angles = rope_angles(positions, frequencies, dtype)
    return angles.astype(jnp.bfloat16).astype(angles.dtype)


def _keys_ahead(x: Heads, angles: Angles) -> Heads:
    return rotate(x, angles + (angles[:, 1:2] - angles[:, :1]) if angles.shape[1] > 1 else angles)


def _bfloat16_table(x: Heads, angles: Angles) -> Heads:
    cos, sin = (f(angles).astype(jnp.bfloat16).astype(x.dtype)[:, :, None] for f in (jnp.cos, jnp.sin))
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


MUTANTS = (
    Mutant(
        "positions_shifted",
        wrong="R(position + 1) q, R(position + 1) k",
        right="R(position) q, R(position) k",
        introduced=ROTATED,
        change=_shifted(1),
        free=FreeValue("shift =", _shifted, tuple(n for n in range(-8, 9) if n), "position + {}", counts=True),
        at_logits=RELATIVE,
        seen=("https://github.com/quic/efficient-transformers/pull/1250",),
    ),
    Mutant(
        "positions_of_keys_shifted",
        wrong="R(position) q, R(position + 1) k",
        right="R(position) q, R(position) k",
        introduced=kinds("k_rope"),
        change=OperationChange({"rotate_k": _keys_ahead}),
        needs=(PAIR,),
        seen=("https://github.com/fla-org/flash-linear-attention/issues/766",),
    ),
    Mutant(
        "positions_counted",
        wrong="position = index in the row, padding included",
        right="position = number of tokens before it",
        introduced=ROTATED,
        change=OperationChange({"rope_angles": _counted}),
        needs=(UNCOUNTED,),
        at_logits=RELATIVE,
        seen=(
            "https://github.com/TransformerLensOrg/TransformerLens/issues/1609",
            "https://github.com/unslothai/unsloth/pull/4078",
        ),
    ),
    Mutant(
        "positions_scaled",
        wrong="(position / 8) theta^(-2i / head_dim), a linear scaling that other models have",
        right=ANGLE,
        introduced=ROTATED,
        change=_scaled(1 / 8),
        free=FreeValue("factor =", _scaled, decades(-2, 2, 8), "{} position"),
        needs=(PAIR,),
        seen=("https://github.com/lablup/mlxcel/issues/1340", "https://github.com/ollama/ollama/pull/13452"),
    ),
    Mutant(
        "positions_in_bfloat16",
        wrong="bfloat16(position), which cannot count beyond 256",
        right="position, exactly",
        introduced=ROTATED,
        change=NumericsChange({"rope_angles": _bfloat16_positions}),
        needs=(beyond(256),),
        seen=(
            "https://github.com/keras-team/keras-hub/issues/1494",
            "https://github.com/keras-team/keras-hub/pull/1508",
        ),
    ),
    Mutant(
        "positions_in_int16",
        wrong="int16(position), negative beyond 32,767",
        right="position, exactly",
        introduced=ROTATED,
        change=NumericsChange({"rope_angles": _int16_positions}),
        needs=(beyond(32767),),
        seen=("https://github.com/vllm-project/tpu-inference/issues/2755",),
    ),
    Mutant(
        "frequencies_in_bfloat16",
        wrong="position bfloat16(theta^(-2i / head_dim))",
        right=ANGLE,
        introduced=ROTATED,
        change=NumericsChange({"inverse_frequencies": _bfloat16_frequencies}),
        needs=(PAIR,),
        seen=(
            "https://github.com/sgl-project/sglang-jax/issues/1472",
            "https://github.com/Modalities/modalities/pull/462",
            "https://github.com/huggingface/transformers/issues/29496",
        ),
    ),
    Mutant(
        "theta_in_bfloat16",
        wrong="position bfloat16(theta)^(-2i / head_dim): 999,424 for 1e6, which shows far into a text",
        right=ANGLE,
        introduced=ROTATED,
        change=NumericsChange({"inverse_frequencies": _bfloat16_theta}),
        needs=(PAIR, UNEVEN_THETA),
    ),
    Mutant(
        "angles_in_bfloat16",
        wrong="cos(bfloat16(angle)), sin(bfloat16(angle))",
        right="cos(angle), sin(angle)",
        introduced=ROTATED,
        change=NumericsChange({"rope_angles": _bfloat16_angles}),
        needs=(PAIR,),
        seen=("https://github.com/huggingface/transformers/pull/29285",),
    ),
    Mutant(
        "tables_in_bfloat16",
        wrong="bfloat16(cos), bfloat16(sin)",
        right="cos, sin in the dtype of the activations",
        introduced=ROTATED,
        change=NumericsChange({"rotate_q": _bfloat16_table, "rotate_k": _bfloat16_table}),
        needs=(PAIR, WIDE),
        seen=(
            "https://github.com/huggingface/transformers/issues/25681",
            "https://github.com/KellerJordan/modded-nanogpt/issues/39",
        ),
    ),
)
