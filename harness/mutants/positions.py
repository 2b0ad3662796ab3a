"""Bugs of positions and of the precision in which RoPE counts them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Array, Float, Int

from harness.families.frequencies import inverse_frequencies
from harness.mutants.free import decades, rounding
from harness.mutants.introduced import ROTATED, kinds
from harness.mutants.mutant import FreeValue, Mutant, NumericsChange, OperationChange, github
from harness.mutants.needs import PAIR, UNCOUNTED, UNEVEN_THETA, WIDE, beyond
from harness.mutants.rope import ANGLE, both, by_tables
from harness.run.operations import Angles, Heads, rope_angles, rotate

RELATIVE = "logits depend on differences of positions alone"
Positions = Int[Array, "batch position"]
Frequencies = Float[np.ndarray, " half"]


def _at(moved: Callable[[Positions], Array]) -> dict[str, Callable[..., Angles]]:
    """Angles of other positions."""
    return {"rope_angles": lambda positions, *more: rope_angles(moved(positions), *more)}


def _shifted(value: float) -> OperationChange:
    return OperationChange(_at(lambda positions: positions + round(value)))


def _scaled(value: float) -> OperationChange:
    return OperationChange({"rope_angles": lambda at, speed, dtype: rope_angles(at, speed * value, dtype)})


def _counted(positions: Positions) -> Positions:
    return jnp.broadcast_to(jnp.arange(positions.shape[1], dtype=positions.dtype), positions.shape)


def _bfloat16_frequencies(theta: float, head_dim: int) -> Frequencies:
    return inverse_frequencies(theta, head_dim).astype(ml_dtypes.bfloat16).astype(np.float64)


def _bfloat16_theta(theta: float, head_dim: int) -> Frequencies:
    return inverse_frequencies(float(ml_dtypes.bfloat16(theta)), head_dim)


def _keys_ahead(x: Heads, angles: Angles) -> Heads:
    return rotate(x, angles + (angles[:, 1:2] - angles[:, :1]) if angles.shape[1] > 1 else angles)


def _bfloat16_table(x: Heads, angles: Angles) -> Heads:
    cos, sin = (f(angles).astype(jnp.bfloat16).astype(x.dtype)[:, :, None] for f in (jnp.cos, jnp.sin))
    return by_tables(x, cos, sin)


turned = partial(Mutant, right=ANGLE, introduced=ROTATED, needs=(PAIR,))
MUTANTS = (
    Mutant(
        "positions_shifted",
        wrong="R(position + 1) q, R(position + 1) k",
        right="R(position) q, R(position) k",
        introduced=ROTATED,
        change=_shifted(1),
        free=FreeValue("shift =", _shifted, tuple(n for n in range(-8, 9) if n), "position + {}", counts=True),
        at_logits=RELATIVE,
        seen=github("quic/efficient-transformers/pull/1250"),
    ),
    turned(
        "positions_of_keys_shifted",
        wrong="R(position) q, R(position + 1) k",
        right="R(position) q, R(position) k",
        introduced=kinds("k_rope"),
        change=OperationChange({"rotate_k": _keys_ahead}),
        seen=github("fla-org/flash-linear-attention/issues/766"),
    ),
    turned(
        "positions_counted",
        wrong="position = index in the row, padding included",
        right="position = number of tokens before it",
        change=OperationChange(_at(_counted)),
        needs=(UNCOUNTED,),
        at_logits=RELATIVE,
        seen=github("TransformerLensOrg/TransformerLens/issues/1609", "unslothai/unsloth/pull/4078"),
    ),
    turned(
        "positions_scaled",
        wrong="(position / 8) theta^(-2i / head_dim), a linear scaling that other models have",
        change=_scaled(1 / 8),
        free=FreeValue("factor =", _scaled, decades(-2, 2, 8), "{} position"),
        seen=github("lablup/mlxcel/issues/1340", "ollama/ollama/pull/13452"),
    ),
    turned(
        "positions_in_bfloat16",
        wrong="bfloat16(position), which cannot count beyond 256",
        right="position, exactly",
        change=NumericsChange(_at(lambda positions: positions.astype(jnp.bfloat16))),
        needs=(beyond(256),),
        seen=github("keras-team/keras-hub/issues/1494", "keras-team/keras-hub/pull/1508"),
    ),
    turned(
        "positions_in_int16",
        wrong="int16(position), negative beyond 32,767",
        right="position, exactly",
        change=NumericsChange(_at(lambda positions: positions.astype(jnp.int16))),
        needs=(beyond(32767),),
        seen=github("vllm-project/tpu-inference/issues/2755"),
    ),
    turned(
        "frequencies_in_bfloat16",
        wrong="position bfloat16(theta^(-2i / head_dim))",
        change=NumericsChange({"inverse_frequencies": _bfloat16_frequencies}),
        seen=github(
            "sgl-project/sglang-jax/issues/1472",
            "Modalities/modalities/pull/462",
            "huggingface/transformers/issues/29496",
        ),
    ),
    turned(
        "theta_in_bfloat16",
        wrong="position bfloat16(theta)^(-2i / head_dim): 999,424 for 1e6, which shows far into a text",
        change=NumericsChange({"inverse_frequencies": _bfloat16_theta}),
        needs=(PAIR, UNEVEN_THETA),
    ),
    turned(
        "angles_in_bfloat16",
        wrong="cos(bfloat16(angle)), sin(bfloat16(angle))",
        right="cos(angle), sin(angle)",
        change=NumericsChange({"rope_angles": rounding(rope_angles)}),
        seen=github("huggingface/transformers/pull/29285"),
    ),
    turned(
        "tables_in_bfloat16",
        wrong="bfloat16(cos), bfloat16(sin)",
        right="cos, sin in the dtype of the activations",
        change=NumericsChange(both(_bfloat16_table)),
        needs=(PAIR, WIDE),
        seen=github("huggingface/transformers/issues/25681", "KellerJordan/modded-nanogpt/issues/39"),
    ),
)
