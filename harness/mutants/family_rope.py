"""RoPE between families: scaling, one theta or two, layers that turn nothing, parts of a head, what is paired."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from harness.families.frequencies import frequencies
from harness.families.options import Architecture, Rope
from harness.mutants.between import option
from harness.mutants.mutant import ROTATED, Around, Mutant, OperationChange, kinds
from harness.mutants.needs import PAIR, Need
from harness.run.arithmetic import operations_of
from harness.run.operations import OPERATIONS

PARTLY = Need(
    "architecture",
    lambda m: any(rope and rope.dims < m.architecture.head_dim for rope in m.architecture.ropes),
    "all of a head is turned here",
)
FIRST = Need(
    "architecture",
    lambda m: not any(rope and rope.last for rope in m.architecture.ropes),
    "the last dimensions of a head are turned here",
)
LOCAL_GLOBAL = (
    "https://github.com/Blaizzy/mlx-vlm/pull/1709",
    "https://github.com/lablup/mlxcel/issues/1340",
    "https://github.com/ollama/ollama/pull/13452",
)
ONE_ROPE = "every layer has the same RoPE here"
NOPE = (
    "https://github.com/pytorch/executorch/issues/22043",
    "https://github.com/huggingface/transformers/issues/43756",
)
SCALED = "the frequencies of the config's kind of RoPE"
UNSCALED = "RoPE is not scaled here"
LLAMA3 = (
    "https://github.com/felafax/felafax/issues/59",
    "https://github.com/lablup/mlxcel/issues/1355",
    "https://github.com/unslothai/unsloth/pull/6197",
)
YARN_FACTOR = "cosines and sines times the factor of YaRN"
NO_FACTOR = "RoPE has no factor on cosines and sines here"


def every_rope(change: Callable[[Rope], Rope]) -> Callable[[Architecture], Architecture]:
    """The rotations with other options, where there are some."""
    return lambda arch: replace(arch, ropes=tuple(rope and change(rope) for rope in arch.ropes))


def _plain(rope: Rope) -> Rope:
    return replace(rope, kind="default", parameters=(), factors=None)


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
    found = {window is not None: rope for window, rope in zip(arch.windows, arch.ropes, strict=True) if rope}
    return found if len(set(found.values())) == 2 else {}


def _ropes_swapped(arch: Architecture) -> Architecture:
    found = _by_window(arch)
    ropes = tuple(found[window is None] for window in arch.windows) if found else arch.ropes
    return replace(arch, ropes=ropes)


def _rope_of(sliding: bool) -> Callable[[Architecture], Architecture]:
    def options(arch: Architecture) -> Architecture:
        found = _by_window(arch)
        return replace(arch, ropes=(found[sliding],) * arch.layers) if found else arch

    return options


def _on_every_layer(arch: Architecture) -> Architecture:
    turned = next((rope for rope in arch.ropes if rope), None)
    return replace(arch, ropes=tuple(rope or turned for rope in arch.ropes))


def _layers_inverted(arch: Architecture) -> Architecture:
    turned = next((rope for rope in arch.ropes if rope), None)
    if None not in arch.ropes:
        return arch
    return replace(arch, ropes=tuple(None if rope else turned for rope in arch.ropes))


def _neighbours(arch: Architecture) -> Architecture:
    """Where the rotation is the usual one, it is `rope_interleaved`."""
    if operations_of(arch).rotate_q is OPERATIONS.rotate_q:
        return arch
    return every_rope(lambda rope: replace(rope, interleaved=True))(arch)


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


MUTANTS = (
    option(
        "rope_scaling_ignored",
        "theta^(-2i / head_dim), whatever the config says of scaling",
        SCALED,
        ROTATED,
        every_rope(_plain),
        UNSCALED,
        *LLAMA3,
        needs=(PAIR,),
    ),
    option(
        "rope_scaled_linearly",
        "every frequency divided by the factor",
        SCALED,
        ROTATED,
        every_rope(_linear),
        "RoPE has no bands here",
        needs=(PAIR,),
    ),
    option(
        "rope_bands_swapped",
        "the low and the high factor of Llama 3 have changed places",
        SCALED,
        ROTATED,
        every_rope(_bands_swapped),
        "RoPE has no bands of Llama 3 here",
        needs=(PAIR,),
    ),
    option(
        "yarn_factor_missing",
        "cosines and sines as they are",
        YARN_FACTOR,
        ROTATED,
        every_rope(_attention_factor(lambda factor: 1.0)),
        NO_FACTOR,
        "https://github.com/turboderp-org/exllamav3/issues/259",
    ),
    option(
        "yarn_factor_squared",
        "cosines and sines times the square of the factor",
        YARN_FACTOR,
        ROTATED,
        every_rope(_attention_factor(lambda factor: factor**2)),
        NO_FACTOR,
        "https://github.com/sgl-project/sglang/pull/33558",
    ),
    option(
        "rope_local_global_swapped",
        "layers with a window have the RoPE of the others, and the other way round",
        "each kind of layer has its own",
        ROTATED,
        _ropes_swapped,
        ONE_ROPE,
        *LOCAL_GLOBAL,
        needs=(PAIR,),
    ),
    option(
        "rope_global_everywhere",
        "every layer has the RoPE of those without a window",
        "each kind of layer has its own",
        ROTATED,
        _rope_of(sliding=False),
        ONE_ROPE,
        *LOCAL_GLOBAL,
        needs=(PAIR,),
    ),
    option(
        "rope_local_everywhere",
        "every layer has the RoPE of those with a window",
        "each kind of layer has its own",
        ROTATED,
        _rope_of(sliding=True),
        ONE_ROPE,
        "https://github.com/antonellof/ferrox/issues/39",
        needs=(PAIR,),
    ),
    option(
        "rope_on_every_layer",
        "R q, R k in every layer",
        "q, k in the layers that turn nothing",
        ROTATED,
        _on_every_layer,
        "every layer has RoPE here, or none",
        *NOPE,
        needs=(PAIR,),
    ),
    option(
        "rope_layers_inverted",
        "RoPE in the layers that turn nothing, and in no other",
        "q, k in the layers that turn nothing",
        ROTATED,
        _layers_inverted,
        "every layer has RoPE here, or none",
        *NOPE,
        needs=(PAIR,),
    ),
    option(
        "rope_over_the_whole_head",
        "all of head_dim is turned",
        "a part of head_dim is turned",
        ROTATED,
        lambda arch: every_rope(lambda rope: replace(rope, dims=arch.turned_dim))(arch),
        "all of a head is turned here",
        "https://github.com/AI-Hypercomputer/maxtext/issues/4616",
        needs=(PAIR,),
    ),
    option(
        "rope_exponent_over_head_dim",
        "theta^(-2i / head_dim) for the part that is turned, as in Gemma 4",
        "theta^(-2i / dims), of the dims that are turned",
        ROTATED,
        _over_head_dim,
        "all of a head is turned here, or one pair of it",
        "https://github.com/pie-project/pie/issues/602",
        needs=(PAIR,),
    ),
    Mutant(
        "rope_last_dimensions",
        wrong="the last dimensions of a head are turned",
        right="the first are",
        introduced=ROTATED,
        change=OperationChange(dict.fromkeys(("rotate_q", "rotate_k"), Around(_last_dimensions))),
        needs=(PARTLY, FIRST, PAIR),
        seen=("https://github.com/ml-explore/mlx-lm/pull/1698",),
    ),
    option(
        "rope_halves_for_neighbours",
        "pairs (i, i + dims / 2)",
        "pairs (2i, 2i + 1)",
        ROTATED,
        every_rope(lambda rope: replace(rope, interleaved=False)),
        "halves are paired here",
        needs=(PAIR,),
    ),
    option(
        "rope_neighbours_for_halves",
        "pairs (2i, 2i + 1)",
        "pairs (i, i + dims / 2)",
        ROTATED,
        _neighbours,
        "rope_interleaved is that bug here, or neighbours are paired",
        "https://github.com/huggingface/transformers/issues/25199",
        needs=(PAIR,),
    ),
    option(
        "query_growth_missing",
        "R q",
        "(1 + beta log(1 + floor(position / length))) R q",
        kinds("q_rope"),
        every_rope(lambda rope: replace(rope, growth=None)),
        "queries do not grow with their position here",
        "https://github.com/antonellof/ferrox/pull/213",
    ),
)
