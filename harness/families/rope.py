"""RoPE, as a config describes it: theta, from whichever dialect, and one of the kinds of scaling.

The hub's dialect has `rope_theta` at the top and `rope_scaling` beside it; transformers 5 has both in
`rope_parameters`. Given together, transformers reads `rope_scaling` alone, and other stacks another one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from harness.errors import CheckpointError
from harness.families.options import Rope
from harness.fields import GUESS, RESTORE, Config, boolean, integer, number, table, wrong

TABLES = ("rope_parameters", "rope_scaling")
TYPES = ("rope_type", "type")  # of two spellings the second is the older one
# 1 turns every pair alike; beyond the largest float32 there is no float32 to compare with.
THETAS = (1.0, 1e30)
PARTIAL, ORIGINAL = "partial_rotary_factor", "original_max_position_embeddings"
Frequencies = Float[np.ndarray, " half"]


def rope(
    config: Config,
    head_dim: int,
    *,
    kinds: tuple[str, ...] = ("default",),
    partial: bool = False,
    interleaved: bool = False,
) -> Rope:
    """The rotation of every layer.

    Args:
        kinds: of scaling, that the family has.
        partial: whether it may turn a part of a head only.

    Raises:
        CheckpointError: there is no theta, or more than one; a kind of RoPE, or a field of it, that is not known
            here; two descriptions of it.
    """
    tables = {name: table(config, name) for name in TABLES}
    for name, one in tables.items():
        _refuse_unknown(name, one, kinds, partial)
    if all(tables.values()):
        raise wrong(
            "the config describes RoPE twice, in two dialects",
            " and ".join(TABLES),
            "one of the two",
            [dict(one) for one in tables.values()],
            "remove the wrong one; transformers goes by rope_scaling where both are given",
        )
    name, given = next(((name, one) for name, one in tables.items() if one), ("rope_scaling", {}))
    kind = _kind(given)
    return Rope(
        theta=_theta(config, tables),
        dims=_turned(given, name, head_dim),
        interleaved=interleaved,
        kind=kind,
        parameters=tuple(sorted(_parameters(given, name, kind).items())),
    )


def frequencies(rope: Rope) -> tuple[Frequencies, float]:
    """The angle per position of every pair, float64 [dims / 2], and the factor on cosine and sine."""
    return scaled(inverse_frequencies(rope.theta, rope.dims), rope)


def inverse_frequencies(theta: float, dims: int) -> Frequencies:
    """theta^(-2i / dims), float64 (Su et al. 2021, RoFormer)."""
    return theta ** (-np.arange(0, dims, 2, dtype=np.float64) / dims)


def scaled(plain: Frequencies, rope: Rope) -> tuple[Frequencies, float]:
    """What a kind of RoPE makes of these, as transformers' modeling_rope_utils does, and its factor."""
    return SCALED[rope.kind](plain, rope, dict(rope.parameters))


def turn(
    x: Float[np.ndarray, "batch position head head_dim"], angles: Float[np.ndarray, "..."], rope: Rope
) -> Float[np.ndarray, "batch position head head_dim"]:
    """Queries or keys, turned by these angles, which have a last axis of pairs and broadcast otherwise."""
    cos, sin = np.cos(angles), np.sin(angles)
    head, rest = x[..., : rope.dims], x[..., rope.dims :]
    if rope.interleaved:
        a, b = head[..., ::2], head[..., 1::2]
        both = np.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(head.shape)
    else:
        a, b = head[..., : rope.dims // 2], head[..., rope.dims // 2 :]
        both = np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return np.concatenate([both, rest], axis=-1)


def _default(plain: Frequencies, rope: Rope, given: Mapping[str, float]) -> tuple[Frequencies, float]:
    return plain, 1.0


def _linear(plain: Frequencies, rope: Rope, given: Mapping[str, float]) -> tuple[Frequencies, float]:
    return plain / given["factor"], 1.0


def _llama3(plain: Frequencies, rope: Rope, given: Mapping[str, float]) -> tuple[Frequencies, float]:
    """High frequencies stay, low ones are divided, and between the two lies a ramp."""
    low, high = given["low_freq_factor"], given["high_freq_factor"]
    turns = given[ORIGINAL] * plain / (2 * np.pi)
    share = np.clip((turns - low) / (high - low), 0, 1)
    return (1 - share) * plain / given["factor"] + share * plain, 1.0


def _yarn(plain: Frequencies, rope: Rope, given: Mapping[str, float]) -> tuple[Frequencies, float]:
    """Peng et al. 2023, YaRN: a ramp over the pairs, and longer queries and keys."""

    def pair(turns: float) -> float:
        """The pair that turns so often within the original length."""
        return rope.dims * math.log(given[ORIGINAL] / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    def longer(scale: float) -> float:
        return 0.1 * scale * math.log(given["factor"]) + 1.0 if given["factor"] > 1 else 1.0

    first, last = pair(given.get("beta_fast", 32.0)), pair(given.get("beta_slow", 1.0))
    if given.get("truncate", 1.0):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rope.dims - 1)
    ramp = np.clip((np.arange(rope.dims // 2) - first) / (last - first or 0.001), 0, 1)
    by_hand = given.get("attention_factor")
    one, other = given.get("mscale", 0.0), given.get("mscale_all_dim", 0.0)
    length = by_hand if by_hand is not None else longer(one) / longer(other) if one and other else longer(1.0)
    return plain * (1 - ramp) + plain / given["factor"] * ramp, length


SCALED: Mapping[str, Callable[[Frequencies, Rope, Mapping[str, float]], tuple[Frequencies, float]]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
# The fields of each kind: those that have to be there, and those that may be.
FIELDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", ORIGINAL), ()),
    "yarn": (
        ("factor", ORIGINAL),
        ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    ),
}


def _kind(given: Config) -> str:
    return next((given[field] for field in TYPES if given.get(field) is not None), "default")


def _parameters(given: Config, name: str, kind: str) -> dict[str, float]:
    needed, optional = FIELDS[kind]
    found: dict[str, float] = {}
    for field in (*needed, *(field for field in optional if given.get(field) is not None)):
        where = f"{name}.{field}"
        value = {where: given.get(field)}
        if field == ORIGINAL:
            found[field] = float(integer(value, where))
        elif field == "truncate":
            found[field] = float(boolean(value, where))
        else:
            found[field] = number(value, where, 1.0 if field == "factor" else 0.0, 1e9)
    if kind == "llama3" and found["low_freq_factor"] >= found["high_freq_factor"]:
        raise wrong(
            "the bands of RoPE's frequencies overlap",
            f"{name}.low_freq_factor",
            f"less than high_freq_factor, {found['high_freq_factor']:g}",
            found["low_freq_factor"],
        )
    return found


def _turned(given: Config, name: str, head_dim: int) -> int:
    """How many dimensions of a head are turned."""
    if given.get(PARTIAL) is None:
        return head_dim
    where = f"{name}.{PARTIAL}"
    share = number({where: given[PARTIAL]}, where, 0.0, 1.0)
    dims = int(share * head_dim)
    if dims < 2 or dims % 2:
        raise wrong("RoPE turns pairs of dimensions", where, f"an even part of {head_dim}", share)
    return dims


def _theta(config: Config, tables: Mapping[str, Config]) -> float:
    places = {f"{name}.rope_theta": one for name, one in tables.items()} | {"rope_theta": config}
    found = {
        where: number({where: place["rope_theta"]}, where, *THETAS)
        for where, place in places.items()
        if place.get("rope_theta") is not None
    }
    if not found:
        raise CheckpointError(
            "the config says nowhere what the RoPE theta is",
            where="config.json: rope_theta or rope_parameters.rope_theta",
            expected="a number",
            found="nothing",
            hint=GUESS,
        )
    if len(set(found.values())) > 1:
        first, second = found.values()
        raise CheckpointError(
            "the config gives two RoPE thetas",
            where=f"config.json: {' and '.join(found)}",
            expected=first,
            found=second,
            hint="remove the wrong one",
        )
    return next(iter(found.values()))


def _refuse_unknown(name: str, given: Config, kinds: tuple[str, ...], partial: bool) -> None:
    """Refuse a kind, or a field, that this family does not have."""
    for field in TYPES:
        if given.get(field, "default") not in kinds:
            raise wrong(
                "this kind of RoPE scaling is not supported in this family",
                f"{name}.{field}",
                " or ".join(kinds),
                given[field],
                "check a checkpoint without it" if kinds == ("default",) else RESTORE,
            )
    if len({given[field] for field in TYPES if field in given}) > 1:
        raise wrong("the config names two kinds of RoPE", f"{name}: {' and '.join(TYPES)}", "one", dict(given))
    needed, optional = FIELDS[_kind(given)]
    known = (*TYPES, "rope_theta", *needed, *optional, *((PARTIAL,) if partial else ()))
    for field, value in given.items():
        if field in known or value is None or (field == PARTIAL and value == 1):
            continue
        raise wrong(
            "the config has a field of RoPE that is not known here",
            f"{name}.{field[:80]}",
            ", ".join(known),
            value,
            "remove it from a copy of config.json if it changes nothing; if it does, the model is another one",
        )
