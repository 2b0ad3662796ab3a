"""Makes the checkpoints of the embedded goldens of other families: `python -m harness.record.families`.

Each is tiny, and has what its family has: layers of both kinds, a head_dim that is not hidden / heads where it is
free, several heads to a KV head, norm weights that differ, biases, caps that bite, frequencies within every band.
Every byte is a token.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from harness.architecture import Architecture, architecture_of, family_of, read_config
from harness.families import Family
from harness.families.parameters import (
    CORRECTION,
    DOWN,
    GATE_UP,
    HEAD_NORMS,
    made_with,
    part_rows,
    rows_of,
    shapes,
)
from harness.packed import cut
from harness.record import tiny

BYTES = 256
SEED = 20251129
EMBEDDING_STD, BIAS_STD, NORM_SPREAD, SCORES = 0.03, 0.5, 0.3, 1.3
CORRECTION_STD = 0.1
# config.json of each is in the hub's dialect, as the family publishes it, and was written by hand.
NAMES = ("llama3", "qwen3", "gemma2", "gemma3", "olmo2", "qwen3-moe", "deepseek-v3", "gpt-neox")


def config(name: str) -> dict[str, Any]:
    """config.json of an embedded golden, from which the rest of its checkpoint is made."""
    return read_config(tiny.GOLDENS / name)


def parameters(fields: Mapping[str, Any], seed: int = SEED) -> dict[str, Float[np.ndarray, "..."]]:
    """Every parameter of a model of any family, random and structured, float64, by the names of its modules."""
    arch, family = architecture_of(fields), family_of(fields)
    random = np.random.default_rng(seed)
    tensors = {
        name: _drawn(family, arch, random, name, shape)
        for name, shape in sorted(shapes(family, arch).items())
        if not (arch.tied_head and name.startswith(f"{family.model['logits']}."))
    }
    for name, tensor in tensors.items():
        _add_outliers(family, arch, name, tensor)
    return tensors


def _add_outliers(family: Family, arch: Architecture, name: str, tensor: Float[np.ndarray, "..."]) -> None:
    """Gates and ups beyond 7, as `harness.record.tiny` has them; what comes after them undoes it."""
    _, sharing, last = made_with(family, name)
    if last in (GATE_UP, DOWN):
        _add_outliers_of_experts(family, last, tensor)
    if last != "weight" or family.stored_transposed:
        return
    for kind, outliers in (("gate", tiny.OUTLIER_GATES), ("up", tiny.OUTLIER_UPS)):
        if kind in sharing:
            tensor[rows_of(family, arch, kind, len(tensor))[outliers]] *= tiny.OUTLIER_GAIN
        if "mlp_out" in sharing:
            tensor[:, outliers] /= tiny.OUTLIER_GAIN


def _add_outliers_of_experts(family: Family, last: str, tensor: Float[np.ndarray, "expert ..."]) -> None:
    """The same in every expert."""
    rows = tensor.swapaxes(1, 2) if family.experts_transposed else tensor  # [E, output, input]
    if last == DOWN:
        rows[:, :, tiny.OUTLIER_GATES] /= tiny.OUTLIER_GAIN
        rows[:, :, tiny.OUTLIER_UPS] /= tiny.OUTLIER_GAIN
        return
    for part, outliers in (("gate", tiny.OUTLIER_GATES), ("up", tiny.OUTLIER_UPS)):
        rows[:, part_rows(family, part, rows.shape[1])][:, outliers] *= tiny.OUTLIER_GAIN


def _drawn(
    family: Family, arch: Architecture, random: np.random.Generator, name: str, shape: tuple[int, ...]
) -> Float[np.ndarray, "..."]:
    _, sharing, last = made_with(family, name)
    if last == CORRECTION:
        return CORRECTION_STD * random.standard_normal(shape)
    if last == "bias":
        return BIAS_STD * random.standard_normal(shape)
    if set(sharing) & {"embed", "positions"}:
        return EMBEDDING_STD * random.standard_normal(shape)
    if any("norm" in kind for kind in sharing):
        size = SCORES if set(sharing) & set(HEAD_NORMS) else 1.0
        return size * (1 + NORM_SPREAD * random.uniform(-1, 1, shape)) - arch.norm.plus_one
    inputs = shape[0] if family.stored_transposed and len(shape) == 2 else shape[-1]
    if "experts_out" in sharing and family.experts_transposed:
        inputs = shape[1]
    gain = SCORES if set(sharing) & {"q", "k", "kv"} and arch.qk_norm is None else 1.0
    drawn: np.ndarray = random.standard_normal(shape) * (gain / np.sqrt(inputs))
    return drawn


def in_pieces(family: Family, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parameters as files have them: of all experts in one, those of each (`Family.each`)."""
    pieces: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        path = next((path for path in family.each if name.endswith(f".{path}")), None)
        if path is None:
            pieces[name] = tensor
            continue
        prefix, experts = name.removesuffix(path), range(len(tensor))
        pieces |= cut(
            tensor, [[f"{prefix}{part.format(expert)}" for part in family.each[path]] for expert in experts]
        )
    return pieces


def write_checkpoint(directory: Path, fields: Mapping[str, Any], seed: int = SEED) -> None:
    """Write a checkpoint of any family, its parameters as bfloat16; its tokenizer needs no training."""
    tensors = in_pieces(family_of(fields), tiny.stored(parameters(fields, seed)))
    tiny.write(directory, dict(fields), tensors, tiny.tokenizer((), BYTES))


if __name__ == "__main__":
    for golden in sys.argv[1:] or NAMES:
        write_checkpoint(tiny.GOLDENS / golden, config(golden))
