"""Bugs of latent attention: norms and scale, the part of keys that heads share, what is made of a latent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from harness.architecture import Architecture
from harness.mutants.free import decades, option_of
from harness.mutants.introduced import LATENT_NORMS, kinds
from harness.mutants.loading import Own, loaded
from harness.mutants.mutant import Around, FreeValue, Mutant, OperationChange, OptionChange, github
from harness.mutants.needs import PAIR, SEVERAL_HEADS, model_has
from harness.mutants.norms import MISSING
from harness.run.operations import Heads

LATENT = model_has(lambda arch: arch.mla is not None, "attention is not latent here")
NORMED = "latents are normed, with an eps of their own"
BOTH = "of every head, the part of its key and then its value"


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


def _values_first(kv: Array, nope: int) -> tuple[Array, Array]:
    values = kv.shape[-1] - nope
    return kv[..., values:], kv[..., :values]


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
    Mutant(
        "latent_norms_eps",
        wrong="eps of the config for latents too",
        right=NORMED,
        introduced=LATENT_NORMS,
        change=OptionChange(_with_eps(None), "attention is not latent here, or eps is the same"),
        free=FreeValue("eps =", option_of(_with_eps), (0.0, *decades(-13, -1, 1)), "eps of latents = {}"),
        seen=github("huggingface/transformers/pull/44346", "NVIDIA/Megatron-LM/pull/6122"),
    ),
    Mutant(
        "latent_norms_missing",
        wrong="latents as they are",
        right=NORMED,
        introduced=LATENT_NORMS,
        change=OperationChange(dict.fromkeys(sorted(LATENT_NORMS), MISSING)),
    ),
    Mutant(
        "latent_split_reversed",
        wrong="the part of keys that is turned, and behind it the latent",
        right="the latent, and behind it the part of keys that is turned",
        introduced=kinds("kv_latent", "k_pe"),
        change=loaded(("kv_latent", "k_pe"), _turned_part_first),
        needs=(LATENT,),
    ),
    Mutant(
        "latent_not_turned",
        wrong="neither queries nor keys are turned",
        right="the part of queries and keys that has positions is",
        introduced=kinds("q_rope", "k_pe_rope"),
        change=OperationChange(
            {name: Around(lambda _: lambda x, *rotation: x) for name in ("rotate_q", "rotate_k")}
        ),
        needs=(LATENT, PAIR),
        seen=github("sqliteai/warp/pull/27"),
    ),
    Mutant(
        "latent_first_dimensions_turned",
        wrong="the first dimensions of a query are turned",
        right="the last are",
        introduced=kinds("q_rope"),
        change=OperationChange({"rotate_q": Around(_first_dimensions)}),
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
    Mutant(
        "latent_values_first",
        wrong="of every head, its value and then the part of its key",
        right=BOTH,
        introduced=kinds("probs", "context"),
        change=OperationChange({"split_kv": Around(lambda _: _values_first)}),
        needs=(LATENT, PAIR),
    ),
    Mutant(
        "latent_key_of_first_head",
        wrong="the first head alone has the turned part of the key",
        right="every head has the same turned part of its key",
        introduced=kinds("probs"),
        change=OperationChange({"join_key": Around(_first_head_alone)}),
        needs=(LATENT, SEVERAL_HEADS, PAIR),
    ),
    Mutant(
        "latent_scale_absorbed",
        wrong="q . k / sqrt(latent and turned part), times YaRN's part of the scale",
        right="q . k times the scale of the config, with queries and keys of both parts",
        introduced=kinds("probs"),
        change=OptionChange(_scale_of_the_latent, "attention is not latent here, or both sizes are the same"),
        needs=(PAIR,),
        seen=github("ollama/ollama/pull/13893", "NVIDIA/Megatron-LM/issues/1501"),
    ),
    Mutant(
        "latent_scale_once",
        wrong="q . k / sqrt(head_dim), times YaRN's factor",
        right="times the square of it",
        introduced=kinds("probs"),
        change=OptionChange(_scaled_once, "attention is not latent here, or its scale has nothing of YaRN"),
        needs=(PAIR,),
        seen=github("NVIDIA/Megatron-LM/issues/1429"),
    ),
)
