"""Bugs of a latent cache alone: what is kept of a token, in which form, and in whose row.

Those that any cache has are in `harness.mutants.cache`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Int

from harness.mutants.cache import new_tokens, only_in_steps
from harness.mutants.free import through
from harness.mutants.introduced import kinds
from harness.mutants.latent import LATENT
from harness.mutants.mutant import Around, Mutant, NumericsChange, OperationChange, github
from harness.mutants.needs import Need, steps

Start = Int[Array, ""]
Kept = tuple[Array, Array]
BOTH = kinds("cache_latent", "cache_k_pe")
ROWS = Need(
    "case",
    lambda case: case.rows > 1,
    "no case has several rows and a cache",
    "a batch that is decoded through a cache",
)


def _unnormed(latent: Array, normed: Array, shared: Array, turned: Array) -> Kept:
    return latent, turned


def _unturned(latent: Array, normed: Array, shared: Array, turned: Array) -> Kept:
    return normed, shared


def _turned_part_first(latent: Array, normed: Array, shared: Array, turned: Array) -> Kept:
    """In a decoded token's row the turned part lies before the latent, and is read behind it."""
    if latent.shape[1] > 1:
        return normed, turned
    row = jnp.concatenate([turned, normed], axis=-1)
    return row[..., : latent.shape[-1]], row[..., latent.shape[-1] :]


def _late(write: Callable[..., Array]) -> Callable[..., Array]:
    return only_in_steps(lambda buffer, new, start: write(buffer, new, start + 1), write, new_tokens)


def _of_the_first_row(write: Callable[..., Array]) -> Callable[..., Array]:
    def first(buffer: Array, new: Array, start: Start) -> Array:
        return write(buffer, jnp.broadcast_to(new[:1], new.shape), start)

    return only_in_steps(first, write, new_tokens)


def _in_float8(write: Callable[..., Array]) -> Callable[..., Array]:
    return lambda buffer, new, start: write(buffer, through(new, jnp.float8_e4m3fn), start)


kept = partial(Mutant, needs=(LATENT, steps(1)), cached=True)
MUTANTS = (
    kept(
        "latent_kept_unnormed",
        wrong="the latent is kept before its norm, and read as if it were normed",
        right="a latent is kept as its norm makes it",
        introduced=kinds("cache_latent"),
        change=OperationChange({"kept_of_tokens": _unnormed}),
    ),
    kept(
        "latent_kept_unturned",
        wrong="the part of keys that is turned is kept before RoPE, and never turned",
        right="the part of keys that is turned is kept turned",
        introduced=kinds("cache_k_pe"),
        change=OperationChange({"kept_of_tokens": _unturned}),
    ),
    kept(
        "latent_kept_behind",
        wrong="of a decoded token the turned part of its key, and behind it its latent",
        right="a token has one row: its latent, and behind it the turned part of its key",
        introduced=BOTH,
        change=OperationChange({"kept_of_tokens": _turned_part_first}),
        seen=github("sgl-project/sglang/pull/38666"),
    ),
    kept(
        "latent_slots_apart",
        wrong="the turned part of a decoded token's key goes one slot further on than its latent",
        right="both go to one slot",
        introduced=kinds("cache_k_pe"),
        change=OperationChange({"write_k_pe": Around(_late)}),
    ),
    kept(
        "latent_of_first_row",
        wrong="a decoded token of any row is kept as that of the first",
        right="every row of a batch has a cache of its own",
        introduced=BOTH,
        change=OperationChange(dict.fromkeys(("write_latent", "write_k_pe"), Around(_of_the_first_row))),
        needs=(LATENT, steps(1), ROWS),
        seen=github("gittensor-ai-lab/sparkinfer/issues/289"),
    ),
    kept(
        "latent_in_float8",
        wrong="latents are kept in float8, without a scale",
        right="in the dtype of the activations",
        introduced=kinds("cache_latent"),
        change=NumericsChange({"write_latent": Around(_in_float8)}),
        seen=github("vllm-project/vllm/issues/38652"),
    ),
)
