"""A product of one token with a matrix in float32, in XLA and in PyTorch: how far each is off.

    python -m tests.benchmarks.bench_single_token

What a correct port is allowed where a call has one token (`harness.tolerances`). XLA is asked with the matrix as
it lies in a checkpoint and turned, with a bias and without, since it has a kernel for each. It needs the `record`
extra; `MKL_ENABLE_INSTRUCTIONS=AVX2` shows PyTorch as it is on a machine without AVX-512.
"""

from __future__ import annotations

import jax
import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

PRODUCTS = (512, 896, 1536, 2048, 3584, 4096, 5120, 8192, 11008, 18944, 53248)
OUTPUTS, MOST, SEEDS = 1024, 50_000_000, 4
KERNELS = {
    "stored": jax.jit(lambda x, weight, turned, bias: x @ weight.mT),
    "turned": jax.jit(lambda x, weight, turned, bias: x @ turned),
    "stored, bias": jax.jit(lambda x, weight, turned, bias: x @ weight.mT + bias),
    "turned, bias": jax.jit(lambda x, weight, turned, bias: x @ turned + bias),
}


def ratios(products: int, seed: int) -> dict[str, float]:
    """How many times PyTorch's error each of XLA's is."""
    random, outputs = np.random.default_rng(seed), min(OUTPUTS, MOST // products)
    x = random.standard_normal((1, 1, products), dtype=np.float32)
    weight = random.standard_normal((outputs, products), dtype=np.float32) / np.float32(products**0.5)
    bias = random.standard_normal(outputs, dtype=np.float32) / 2
    truth = x.astype(np.float64) @ weight.T.astype(np.float64)
    biased = torch.nn.functional.linear(*map(torch.from_numpy, (x, weight, bias))).numpy()
    plain = torch.nn.functional.linear(*map(torch.from_numpy, (x, weight))).numpy()
    own = {True: _off(biased, truth + bias), False: _off(plain, truth)}
    turned = np.ascontiguousarray(weight.T)
    found = {}
    for name, kernel in KERNELS.items():
        with_bias = "bias" in name
        off = _off(np.asarray(kernel(x, weight, turned, bias)), truth + bias if with_bias else truth)
        found[name] = off / own[with_bias]
    return found


def _off(value: Float[np.ndarray, "..."], truth: Float[np.ndarray, "..."]) -> float:
    return float(np.sqrt(np.square(value.astype(np.float64) - truth).mean()))


def main() -> None:
    jax.config.update("jax_default_matmul_precision", "highest")
    table = Table("products", *KERNELS, title="times PyTorch's error", box=None)
    for products in PRODUCTS:
        several = [ratios(products, seed) for seed in range(SEEDS)]
        means = (np.mean([one[name] for one in several]) for name in KERNELS)
        table.add_row(f"{products:,}", *(f"{mean:.2f}" for mean in means))
    Console().print(table)


if __name__ == "__main__":
    main()
