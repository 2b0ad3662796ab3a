"""RoPE between families: scaling, one theta or two, layers that turn nothing, parts of a head, what is paired."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from harness.families.frequencies import frequencies
from harness.families.options import Architecture, Rope
from harness.mutants.introduced import ROTATED, kinds
from harness.mutants.mutant import Around, Mutant, OperationChange, OptionChange, github
from harness.mutants.needs import PAIR, model_has
from harness.run.arithmetic import operations_of
from harness.run.operations import OPERATIONS

PARTLY = model_has(
    lambda arch: any(rope and rope.dims < arch.head_dim for rope in arch.ropes), "all of a head is turned here"
)
FIRST = model_has(
    lambda arch: not any(rope and rope.last for rope in arch.ropes),
    "the last dimensions of a head are turned here",
)
LOCAL_GLOBAL = github("Blaizzy/mlx-vlm/pull/1709", "lablup/mlxcel/issues/1340", "ollama/ollama/pull/13452")
ONE_ROPE = "every layer has the same RoPE here"
NOPE = github("pytorch/executorch/issues/22043", "huggingface/transformers/issues/43756")
LLAMA3 = github("felafax/felafax/issues/59", "lablup/mlxcel/issues/1355", "unslothai/unsloth/pull/6197")
NO_FACTOR = "RoPE has no factor on cosines and sines here"


def every_rope(change: Callable[[Rope], Rope]) -> Callable[[Architecture], Architecture]:
    """The rotations changed, where there are some."""
    return lambda arch: replace(arch, ropes=tuple(rope and change(rope) for rope in arch.ropes))


def ropes_having(**options: Any) -> Callable[[Architecture], Architecture]:
    """The rotations with these options, where there are some."""
    return every_rope(lambda rope: replace(rope, **options))


def _linear(rope: Rope) -> Rope:
    factor = dict(rope.parameters).get("factor")
    if rope.kind not in ("llama3", "yarn") or factor is None:
        return rope
    return replace(rope, kind="linear", parameters=(("factor", factor),))


def _bands_swapped(rope: Rope) -> Rope:
    given = dict(rope.parameters)
    if rope.kind != "llama3":
        return rope
    given["low_freq_factor"], given["high_freq_factor"] = given["high_freq_factor"], given["low_freq_factor"]
    return replace(rope, parameters=tuple(sorted(given.items())))


def _attention_factor(change: Callable[[float], float]) -> Callable[[Rope], Rope]:
    def changed_rope(rope: Rope) -> Rope:
        factor = frequencies(rope)[1]
        if rope.kind != "yarn" or factor == 1.0:
            return rope
        given = {**dict(rope.parameters), "attention_factor": change(factor)}
        return replace(rope, parameters=tuple(sorted(given.items())))

    return changed_rope


def _by_window(arch: Architecture) -> dict[bool, Rope]:
    """The rotation of layers with a window and of those without, where both have one and they differ."""
    ropes = {window is not None: rope for window, rope in zip(arch.windows, arch.ropes, strict=True) if rope}
    return ropes if len(set(ropes.values())) == 2 else {}


def _rope_of(choose: Callable[[bool], bool]) -> Callable[[Architecture], Architecture]:
    """Whether a layer has a window -> whether it turns as those with one do."""

    def options(arch: Architecture) -> Architecture:
        ropes = _by_window(arch)
        return replace(arch, ropes=tuple(ropes[choose(w is not None)] for w in arch.windows)) if ropes else arch

    return options


def _turned(choose: Callable[[Rope | None, Rope | None], Rope | None]) -> Callable[[Architecture], Architecture]:
    """RoPE in other layers: (a layer's own, that of the first that has one) -> what the layer has."""

    def options(arch: Architecture) -> Architecture:
        first = next((rope for rope in arch.ropes if rope), None)
        return (
            replace(arch, ropes=tuple(choose(rope, first) for rope in arch.ropes)) if None in arch.ropes else arch
        )

    return options


def _neighbours(arch: Architecture) -> Architecture:
    """Where the rotation is the usual one, it is `rope_interleaved`."""
    if operations_of(arch).rotate_q is OPERATIONS.rotate_q:
        return arch
    return ropes_having(interleaved=True)(arch)


def _over_head_dim(arch: Architecture) -> Architecture:
    """theta^(-2i / head_dim) for the pairs that are turned: a theta that the first pair does not look at."""
    if all(rope is None or rope.dims <= 2 for rope in arch.ropes):
        return arch
    return every_rope(lambda rope: replace(rope, theta=rope.theta ** (rope.dims / arch.head_dim)))(arch)


def _last_dimensions(rotate: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """The last dimensions of a head turned instead of the first."""

    def wrong(x: np.ndarray, angles: np.ndarray, *factor: float) -> np.ndarray:
        rest = x.shape[-1] - 2 * angles.shape[-1]
        order = np.concatenate([np.arange(rest, x.shape[-1]), np.arange(rest)])
        return rotate(x[..., order], angles, *factor)[..., np.argsort(order)]

    return wrong


scaled = partial(Mutant, right="the frequencies of the config's kind of RoPE", introduced=ROTATED, needs=(PAIR,))
yarn = partial(Mutant, right="cosines and sines times the factor of YaRN", introduced=ROTATED)
rope = partial(Mutant, introduced=ROTATED, needs=(PAIR,))
by_layer = partial(Mutant, right="each kind of layer has its own", introduced=ROTATED, needs=(PAIR,))
MUTANTS = (
    scaled(
        "rope_scaling_ignored",
        wrong="theta^(-2i / head_dim), whatever the config says of scaling",
        change=OptionChange(ropes_having(kind="default", parameters=(), factors=None), "RoPE is not scaled here"),
        seen=LLAMA3,
    ),
    scaled(
        "rope_scaled_linearly",
        wrong="every frequency divided by the factor",
        change=OptionChange(every_rope(_linear), "RoPE has no bands here"),
    ),
    scaled(
        "rope_bands_swapped",
        wrong="the low and the high factor of Llama 3 have changed places",
        change=OptionChange(every_rope(_bands_swapped), "RoPE has no bands of Llama 3 here"),
    ),
    yarn(
        "yarn_factor_missing",
        wrong="cosines and sines as they are",
        change=OptionChange(every_rope(_attention_factor(lambda factor: 1.0)), NO_FACTOR),
        seen=github("turboderp-org/exllamav3/issues/259"),
    ),
    yarn(
        "yarn_factor_squared",
        wrong="cosines and sines times the square of the factor",
        change=OptionChange(every_rope(_attention_factor(lambda factor: factor**2)), NO_FACTOR),
        seen=github("sgl-project/sglang/pull/33558"),
    ),
    by_layer(
        "rope_local_global_swapped",
        wrong="layers with a window have the RoPE of the others, and the other way round",
        change=OptionChange(_rope_of(lambda sliding: not sliding), ONE_ROPE),
        seen=LOCAL_GLOBAL,
    ),
    by_layer(
        "rope_global_everywhere",
        wrong="every layer has the RoPE of those without a window",
        change=OptionChange(_rope_of(lambda sliding: False), ONE_ROPE),
        seen=LOCAL_GLOBAL,
    ),
    by_layer(
        "rope_local_everywhere",
        wrong="every layer has the RoPE of those with a window",
        change=OptionChange(_rope_of(lambda sliding: True), ONE_ROPE),
        seen=github("antonellof/ferrox/issues/39"),
    ),
    rope(
        "rope_on_every_layer",
        wrong="R q, R k in every layer",
        right="q, k in the layers that turn nothing",
        change=OptionChange(_turned(lambda own, first: own or first), "every layer has RoPE here, or none"),
        seen=NOPE,
    ),
    rope(
        "rope_layers_inverted",
        wrong="RoPE in the layers that turn nothing, and in no other",
        right="q, k in the layers that turn nothing",
        change=OptionChange(
            _turned(lambda own, first: None if own else first), "every layer has RoPE here, or none"
        ),
        seen=NOPE,
    ),
    rope(
        "rope_over_the_whole_head",
        wrong="all of head_dim is turned",
        right="a part of head_dim is turned",
        change=OptionChange(lambda arch: ropes_having(dims=arch.turned_dim)(arch), "all of a head is turned here"),
        seen=github("AI-Hypercomputer/maxtext/issues/4616"),
    ),
    rope(
        "rope_exponent_over_head_dim",
        wrong="theta^(-2i / head_dim) for the part that is turned, as in Gemma 4",
        right="theta^(-2i / dims), of the dims that are turned",
        change=OptionChange(_over_head_dim, "all of a head is turned here, or one pair of it"),
        seen=github("pie-project/pie/issues/602"),
    ),
    rope(
        "rope_last_dimensions",
        wrong="the last dimensions of a head are turned",
        right="the first are",
        change=OperationChange(dict.fromkeys(("rotate_q", "rotate_k"), Around(_last_dimensions))),
        needs=(PARTLY, FIRST, PAIR),
        seen=github("ml-explore/mlx-lm/pull/1698"),
    ),
    rope(
        "rope_halves_for_neighbours",
        wrong="pairs (i, i + dims / 2)",
        right="pairs (2i, 2i + 1)",
        change=OptionChange(ropes_having(interleaved=False), "halves are paired here"),
    ),
    rope(
        "rope_neighbours_for_halves",
        wrong="pairs (2i, 2i + 1)",
        right="pairs (i, i + dims / 2)",
        change=OptionChange(_neighbours, "rope_interleaved is that bug here, or neighbours are paired"),
        seen=github("huggingface/transformers/issues/25199"),
    ),
    Mutant(
        "query_growth_missing",
        wrong="R q",
        right="(1 + beta log(1 + floor(position / length))) R q",
        introduced=kinds("q_rope"),
        change=OptionChange(ropes_having(growth=None), "queries do not grow with their position here"),
        seen=github("antonellof/ferrox/pull/213"),
    ),
)
