"""Tiny checkpoints as they are published quantised: FP8 in blocks (DeepSeek-V3), MXFP4 (gpt-oss). No torch."""

from __future__ import annotations

import json
from math import ceil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
FP8 = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [16, 16],  # published: 128, of matrices that are not tiny
}
MXFP4 = {
    "modules_to_not_convert": [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ],
    "quant_method": "mxfp4",
}


def in_fp8(directory: Path, block: int = 16) -> Path:
    """Quantise the checkpoint in place: every projection, in blocks, some of them smaller at an edge."""

    def quantised(name: str, matrix: np.ndarray) -> dict[str, np.ndarray]:
        if "_proj" not in name or matrix.ndim != 2:
            return {name: matrix}
        matrix, (rows, columns) = matrix.astype(np.float32), matrix.shape
        scales = np.empty((ceil(rows / block), ceil(columns / block)), np.float32)
        values = np.empty(matrix.shape, ml_dtypes.float8_e4m3fn)
        for i, j in np.ndindex(scales.shape):
            at = np.s_[i * block : (i + 1) * block, j * block : (j + 1) * block]
            scales[i, j] = np.abs(matrix[at]).max() / 448
            values[at] = matrix[at] / scales[i, j]
        return {name: values, f"{name}_scale_inv": scales}

    return _rewritten(directory, quantised, {**FP8, "weight_block_size": [block, block]})


def in_mxfp4(directory: Path) -> Path:
    """Quantise the checkpoint in place: the matrices of experts, of 32 inputs with a scale."""

    def quantised(name: str, matrices: np.ndarray) -> dict[str, np.ndarray]:
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            return {name: matrices}
        experts, inputs, outputs = matrices.shape
        groups = matrices.astype(np.float32).swapaxes(1, 2).reshape(experts, outputs, inputs // 32, 32)
        power = np.floor(np.log2(np.abs(groups).max(-1))) - 2
        found = np.abs(groups / np.exp2(power)[..., None])[..., None] - FP4
        codes = (np.abs(found).argmin(-1) + 8 * (groups < 0)).astype(np.uint8)
        blocks = codes[..., ::2] | codes[..., 1::2] << 4
        return {f"{name}_blocks": blocks, f"{name}_scales": (power + 127).astype(np.uint8)}

    return _rewritten(directory, quantised, MXFP4)


def _rewritten(directory: Path, quantised: Any, how: dict[str, Any]) -> Path:
    path = directory / "model.safetensors"
    tensors: dict[str, np.ndarray] = {}
    for name, tensor in load_file(path).items():
        tensors |= quantised(name, tensor)
    save_file({name: np.ascontiguousarray(one) for name, one in tensors.items()}, path, metadata={"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"quantization_config": how}))
    return directory
