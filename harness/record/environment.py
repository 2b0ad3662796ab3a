"""What the recording ran on, and the settings that make it repeatable."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.utils import deterministic

from harness.errors import UsageError
from harness.record import attention

LIBRARIES = ("goldens", "torch", "transformers", "numpy", "safetensors", "tokenizers")


def check_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        UsageError: cuda without a GPU that torch can use.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        where, found, hint = f"--device {device}", f"torch {torch.__version__}", "record on the CPU: --device cpu"
        raise UsageError("torch finds no CUDA device", where, "a GPU, and a torch built for it", found, hint=hint)


@contextlib.contextmanager
def reproducible() -> Iterator[None]:
    """For the time of the block: deterministic algorithms only, and float32 that is float32 (no TF32).

    New memory is left as it is: filling it first, which comes with deterministic algorithms, takes as long again
    as writing what belongs there. What reads it unwritten would be told by the case that is run twice.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    algorithms = torch.are_deterministic_algorithms_enabled()
    precision = torch.get_float32_matmul_precision()
    filled = deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("highest")
    deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms)
        torch.set_float32_matmul_precision(precision)
        deterministic.fill_uninitialized_memory = filled


def provenance(device: str) -> dict[str, Any]:
    """Libraries, hardware and precision settings: everything about this machine that can change a bit.

    Nothing in it differs between two recordings on one machine, since the golden's id depends on it.
    """
    return {
        "libraries": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "hardware": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpu": _cpu_model(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        },
        "precision": {
            "attention": f"eager, transformers' own code behind {attention.NAME}",
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "cuda_bf16_reduced_precision_reduction": bool(
                torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
            ),
            "mkldnn": torch.backends.mkldnn.is_available(),
            "cuda": torch.version.cuda,
        },
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"
