"""Bugs of latent attention: norms and scale, the part of keys that heads share, what is made of a latent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from harness.architecture import Architecture
from harness.mutants.between import around, option
from harness.mutants.free import decades, option_of
from harness.mutants.loading import Own, loaded
from harness.mutants.mutant import LATENT_NORMS, Around, FreeValue, Mutant, kinds
from harness.mutants.needs import PAIR, Need
from harness.mutants.norms import MISSING
from harness.run.operations import Heads

LATENT = Need("architecture", lambda m: m.architecture.mla is not None, "attention is not latent here")
SEVERAL_HEADS = Need("architecture", lambda m: m.architecture.heads > 1, "there is one head")
NORMED = "latents are normed, with an eps of their own"
SCALE = "q . k times the scale of the config, with queries and keys of both parts"
ALL_HEADS = "every head has the same turned part of its key"
BOTH = "of every head, the part of its key and then its value"
SPLIT = "the latent, and behind it the part of keys that is turned"
Split = Callable[..., tuple[Array, Array]]


def _with_eps(value: float | None) -> Callable[[Architecture], Architecture]:
    """Another eps of latents; None is that of the config."""

    def options(arch: Architecture) -> Architecture:
        eps = arch.norm.eps if value is None else value
        return replace(arch, mla=arch.mla and replace(arch.mla, norm=replace(arch.mla.norm, eps=eps)))

    return options


def _scale_of_the_latent(arch: Architecture) -> Architecture:
    """As if queries and keys were what they are in the absorbed product."""
    if arch.mla is None:
        return arch
    return replace(arch, scale=arch.scale * (arch.head_dim / (arch.mla.kv_rank + arch.mla.rope)) ** 0.5)


def _scaled_once(arch: Architecture) -> Architecture:
    """The factor of YaRN and not its square."""
    plain: float = arch.head_dim**-0.5
    return arch if arch.mla is None else replace(arch, scale=(arch.scale * plain) ** 0.5)


def _first_dimensions(rotate: Callable[..., Heads]) -> Callable[..., Heads]:
    """The first dimensions of a head turned instead of the last."""

    def wrong(x: Heads, angles: Array, *factor: Array) -> Heads:
        dims = 2 * angles.shape[-1]
        turned = rotate(jnp.roll(x, -dims, axis=-1), angles, *factor)
        return jnp.roll(turned, dims, axis=-1)

    return wrong


def _first_head_alone(join: Callable[..., Heads]) -> Callable[..., Heads]:
    def wrong(k: Heads, shared: Array) -> Heads:
        keys = join(k, shared)
        first = jnp.concatenate([k[:, :, 1:], jnp.zeros_like(keys[:, :, 1:, k.shape[-1] :])], axis=-1)
        return jnp.concatenate([keys[:, :, :1], first], axis=2)

    return wrong


def _values_first(_: Split) -> Split:
    def wrong(kv: Array, nope: int) -> tuple[Array, Array]:
        values = kv.shape[-1] - nope
        return kv[..., values:], kv[..., :values]

    return wrong


def _keys_before_values(own: Own, kind: str, arch: Architecture) -> np.ndarray:
    """Stored head by head, and taken for the keys of all heads and then their values."""
    stored = own(kind)
    assert arch.mla is not None
    keys, values = np.split(stored, [arch.heads * arch.mla.nope])
    parts = (part.reshape(arch.heads, -1, *stored.shape[1:]) for part in (keys, values))
    return np.concatenate(list(parts), axis=1).reshape(stored.shape)


def _turned_part_first(own: Own, kind: str, arch: Architecture) -> np.ndarray:
    whole = np.concatenate([own("kv_latent"), own("k_pe")])
    assert arch.mla is not None
    return whole[arch.mla.rope :] if kind == "kv_latent" else whole[: arch.mla.rope]


MUTANTS = (
    option(
        "latent_norms_eps",
        "eps of the config for latents too",
        NORMED,
        LATENT_NORMS,
        _with_eps(None),
        "attention is not latent here, or eps is the same",
        "https://github.com/huggingface/transformers/pull/44346",
        "https://github.com/NVIDIA/Megatron-LM/pull/6122",
        free=FreeValue("eps =", option_of(_with_eps), (0.0, *decades(-13, -1, 1)), "eps of latents = {}"),
    ),
    around("latent_norms_missing", "latents as they are", NORMED, dict.fromkeys(sorted(LATENT_NORMS), MISSING)),
    Mutant(
        "latent_split_reversed",
        wrong="the part of keys that is turned, and behind it the latent",
        right=SPLIT,
        introduced=kinds("kv_latent", "k_pe"),
        change=loaded(("kv_latent", "k_pe"), _turned_part_first),
        needs=(LATENT,),
    ),
    around(
        "latent_not_turned",
        "neither queries nor keys are turned",
        "the part of queries and keys that has positions is",
        {name: Around(lambda _: lambda x, *rotation: x) for name in ("rotate_q", "rotate_k")},
        "https://github.com/sqliteai/warp/pull/27",
        introduced=kinds("q_rope", "k_pe_rope"),
        needs=(LATENT, PAIR),
    ),
    around(
        "latent_first_dimensions_turned",
        "the first dimensions of a query are turned",
        "the last are",
        {"rotate_q": Around(_first_dimensions)},
        introduced=kinds("q_rope"),
        needs=(LATENT, PAIR),
    ),
    Mutant(
        "latent_packing",
        wrong="the keys of all heads, and then their values",
        right=BOTH,
        introduced=kinds("kv"),
        change=loaded(("kv",), _keys_before_values),
        needs=(LATENT, SEVERAL_HEADS),
    ),
    around(
        "latent_values_first",
        "of every head, its value and then the part of its key",
        BOTH,
        {"split_kv": Around(_values_first)},
        introduced=kinds("probs", "context"),
        needs=(LATENT, PAIR),
    ),
    around(
        "latent_key_of_first_head",
        "the first head alone has the turned part of the key",
        ALL_HEADS,
        {"join_key": Around(_first_head_alone)},
        introduced=kinds("probs"),
        needs=(LATENT, SEVERAL_HEADS, PAIR),
    ),
    option(
        "latent_scale_absorbed",
        "q . k / sqrt(latent and turned part), times YaRN's part of the scale",
        SCALE,
        kinds("probs"),
        _scale_of_the_latent,
        "attention is not latent here, or both sizes are the same",
        "https://github.com/ollama/ollama/pull/13893",
        "https://github.com/NVIDIA/Megatron-LM/issues/1501",
        needs=(PAIR,),
    ),
    option(
        "latent_scale_once",
        "q . k / sqrt(head_dim), times YaRN's factor",
        "times the square of it",
        kinds("probs"),
        _scaled_once,
        "attention is not latent here, or its scale has nothing of YaRN",
        "https://github.com/NVIDIA/Megatron-LM/issues/1429",
        needs=(PAIR,),
    ),
)
