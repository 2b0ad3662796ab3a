"""Matrix products as accelerators make them: inputs rounded, sums in float32."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array

from harness.mutants.introduced import EVERY_MATMUL, kinds
from harness.mutants.mutant import Around, Mutant, NumericsChange, github
from harness.mutants.needs import PAIR, WIDE
from harness.run.mixture import Act, Matrices
from harness.run.operations import Heads, Probs, aligned

EXACT = "inputs and sums in the dtype of the activations"
TF32_BITS, BFLOAT16_BITS, FLOAT16_BITS = 10, 7, 10
Product = Callable[[str, Array, Array], Array]


def rounded(exponent: int, mantissa: int) -> Product:
    """Both inputs rounded to that many bits, products exact, sums in the dtype of the inputs."""

    def product(equation: str, x: Array, y: Array) -> Array:
        x, y = (jax.lax.reduce_precision(side, exponent, mantissa) for side in (x, y))
        return jnp.einsum(equation, x, y)

    return product


def three_passes(equation: str, x: Array, y: Array) -> Array:
    """x y as high high + high low + low high, each side split into two bfloat16 numbers: `bfloat16_3x`."""

    def split(side: Array) -> tuple[Array, Array]:
        high = jax.lax.reduce_precision(side, 8, BFLOAT16_BITS)
        return high, jax.lax.reduce_precision(side - high, 8, BFLOAT16_BITS)

    (high, low), (other_high, other_low) = split(x), split(y)
    pairs = (high, other_high), (high, other_low), (low, other_high)
    first, second, third = (jnp.einsum(equation, *pair) for pair in pairs)
    return first + second + third


def stored_narrow(equation: str, x: Array, y: Array) -> Array:
    """The product, rounded to bfloat16."""
    return jax.lax.reduce_precision(jnp.einsum(equation, x, y), 8, BFLOAT16_BITS)


def in_projections(product: Product) -> dict[str, Callable[..., Array]]:
    def linear(x: Array, kernel: Array, bias: Array | None) -> Array:
        y = product("...i,io->...o", x, kernel)
        return y if bias is None else y + aligned(bias, y)

    return {"linear": linear}


def in_experts(product: Product) -> dict[str, Around]:
    """In the router, whatever it is, and in experts, all at once."""

    def router(right: Callable[..., Array]) -> Callable[..., Array]:
        def wrong(x: Array, kernel: Array, bias: Array | None = None) -> Array:
            exact = right(x, kernel)
            y = product("bsh,he->bse", x.astype(exact.dtype), kernel.astype(exact.dtype))
            return y if bias is None else y + bias

        return wrong

    return {"router": Around(router), "experts_out": Around(lambda _: all_at_once(product))}


def all_at_once(product: Product) -> Callable[..., Array]:
    """What experts make of tokens, in products over all of them."""

    def wrong(x: Array, routing: Array, gate: Matrices, up: Matrices, down: Matrices, act: Act) -> Array:
        inner = inside(x, gate, up, act, product)
        y = biased(product("bsei,eih->bseh", inner, down.kernel), down.bias)
        return (y * routing[..., None]).sum(axis=2).astype(x.dtype)

    return wrong


def inside(
    x: Array,
    gate: Matrices,
    up: Matrices,
    act: Act,
    product: Product = jnp.einsum,
    equation: str = "bsh,ehi->bsei",
) -> Array:
    """What all experts have inside, [B, S, E, I]."""
    return act(*(biased(product(equation, x, own.kernel), own.bias) for own in (gate, up)))


def biased(y: Array, bias: Array | None) -> Array:
    return y if bias is None else y + bias


def in_head(product: Product) -> dict[str, Callable[..., Array]]:
    return {"head": in_projections(product)["linear"]}


def in_attention(product: Product) -> dict[str, Callable[..., Array]]:
    def scores(q: Heads, k: Heads) -> Probs:
        return product("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5

    def context(probs: Probs, v: Heads) -> Heads:
        return product("bhqk,bkhd->bqhd", probs, v)

    return {"scores": scores, "context": context}


def everywhere(product: Product) -> dict[str, Callable[..., Array] | Around]:
    return {**in_projections(product), **in_experts(product), **in_head(product), **in_attention(product)}


EVERYWHERE = EVERY_MATMUL | {"probs", "context"}
TPU = github("jax-ml/jax/issues/1856", "huggingface/transformers/issues/15754")
GPU = github("jax-ml/jax/issues/12008", "tensorflow/tensorflow/pull/127577")
BFLOAT16, TF32 = rounded(8, BFLOAT16_BITS), rounded(8, TF32_BITS)

matmul = partial(Mutant, right=EXACT, introduced=EVERYWHERE, needs=(WIDE,))
MUTANTS = (
    matmul(
        "matmul_bfloat16",
        wrong="bfloat16(x) bfloat16(W): the default precision of a TPU",
        change=NumericsChange(everywhere(BFLOAT16)),
        seen=TPU,
    ),
    matmul(
        "matmul_bfloat16_3x",
        wrong="three passes over bfloat16 halves: the precision `high` of a TPU",
        change=NumericsChange(everywhere(three_passes)),
        seen=github("jax-ml/jax/issues/7010"),
    ),
    matmul(
        "matmul_tf32",
        wrong="tf32(x) tf32(W): the default precision of a GPU",
        change=NumericsChange(everywhere(TF32)),
        seen=GPU,
    ),
    matmul(
        "matmul_float16",
        wrong="float16(x) float16(W)",
        change=NumericsChange(everywhere(rounded(5, FLOAT16_BITS))),
        needs=(),
        seen=github("huggingface/transformers/issues/9295"),
    ),
    matmul(
        "matmul_stored_bfloat16",
        wrong="bfloat16(x W), made wide afterwards",
        change=NumericsChange(everywhere(stored_narrow)),
        seen=github("sgl-project/sglang/issues/33627"),
    ),
    matmul(
        "attention_matmul_bfloat16",
        wrong="bfloat16 inputs in q . k and probs . v alone",
        introduced=kinds("probs", "context"),
        change=NumericsChange(in_attention(BFLOAT16)),
        needs=(WIDE, PAIR),
        seen=github("jax-ml/jax/issues/9973", "jax-ml/jax/issues/16349"),
    ),
    matmul(
        "projection_matmul_tf32",
        wrong="tf32 inputs in the projections alone",
        introduced=EVERY_MATMUL - {"logits"},
        change=NumericsChange({**in_projections(TF32), **in_experts(TF32)}),
        seen=github("jax-ml/jax/issues/11628"),
    ),
    matmul(
        "head_matmul_bfloat16",
        wrong="bfloat16 inputs in the head alone",
        introduced=kinds("logits"),
        change=NumericsChange(in_head(BFLOAT16)),
        seen=github("jax-ml/jax/issues/10413"),
    ),
)
