"""RoPE, as a config describes it: theta, from whichever dialect, and one of the kinds of scaling.

The hub's dialect has `rope_theta` at the top and `rope_scaling` beside it; transformers 5 has both in
`rope_parameters`. Given together, transformers reads `rope_scaling` alone, and other stacks another one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from harness.families.frequencies import ORIGINAL
from harness.families.options import Rope
from harness.families.windows import FULL, SLIDING
from harness.fields import GUESS, REMOVE, RESTORE, Config, boolean, integer, number, refused, table, wrong

TABLES = ("rope_parameters", "rope_scaling")
TYPES = ("rope_type", "type")  # of two spellings the second is the older one
# 1 turns every pair alike; beyond the largest float32 there is no float32 to compare with.
THETAS = (1.0, 1e30)
# `max_position_embeddings` within the table changes nothing.
GROWTH = ("llama_4_scaling_beta", "max_position_embeddings")
DYNAMIC = "its frequencies depend on the longest input that was seen: check a checkpoint with another kind"
UNKNOWN = "the config has a field of RoPE that is not known here"
PARTIAL = "partial_rotary_factor"
Wide = Literal["none", "products", "all"]


def rope(
    config: Config,
    head_dim: int,
    *,
    kinds: tuple[str, ...] = ("default",),
    partial: float | None = None,
    interleaved: bool = False,
    wide: Wide = "none",
    grows: bool = False,
) -> Rope:
    """The rotation of every layer.

    Args:
        kinds: of scaling, that the family has.
        grows: queries grow with their position.
        partial: which part of a head it turns where the config does not say; None where it turns all of it.

    Raises:
        CheckpointError: there is no theta, or more than one; a kind of RoPE, or a field of it, that is not known
            here; two descriptions of it.
    """
    tables = {name: table(config, name) for name in TABLES}
    for name, said in tables.items():
        _refuse_unknown(name, said, kinds, ((PARTIAL,) if partial is not None else ()) + (GROWTH if grows else ()))
    if all(tables.values()) and not _alike(config, *tables.values()):
        problem, both = "the config describes RoPE twice, in two dialects", list(map(dict, tables.values()))
        hint = "remove the wrong one; transformers goes by rope_scaling where both are given"
        raise wrong(problem, " and ".join(TABLES), "one of the two", both, hint)
    name, given = described(tables)
    kind = kind_of(given)
    return Rope(
        theta=theta_of(config, tables),
        dims=head_dim if partial is None else turned(config, given, name, head_dim, partial),
        interleaved=interleaved,
        wide=wide,
        growth=_growth(given, name) if grows else None,
        kind=kind,
        parameters=tuple(sorted(_parameters(given, name, kind).items())),
    )


def ropes_by_type(
    config: Config, slides: tuple[bool, ...], head_dim: int, local: str, **options: Any
) -> tuple[Rope, ...]:
    """The rotation of every layer, where those with a window may have another.

    transformers 5 has a table for each type of layer. The hub's dialect describes that of layers without a window,
    and has a theta for the others.

    Args:
        slides: by layer, whether it has a window.
        local: the field that has this theta.
    """
    by_type = table(config, "rope_parameters")
    if set(by_type) - {FULL, SLIDING}:
        problem = "RoPE differs by the type of a layer"
        raise wrong(problem, "rope_parameters", f"{FULL} and {SLIDING}", dict(by_type))
    full = {name: config.get(name) for name in ("rope_theta", "rope_scaling")}
    described = {
        False: {**full, "rope_parameters": by_type.get(FULL)},
        True: {"rope_theta": config.get(local), "rope_parameters": by_type.get(SLIDING)},
    }
    ropes = {sliding: rope(described[sliding], head_dim, **options) for sliding in set(slides)}
    return tuple(ropes[sliding] for sliding in slides)


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


def _alike(config: Config, first: Config, second: Config) -> bool:
    """Whether both tables say the same, and theta stands where it is found with either of them."""
    if kind_of(first) != kind_of(second) or config.get("rope_theta") is None:
        return False
    names = {*first, *second} - {*TYPES, "rope_theta"}
    return all(first.get(name) == second.get(name) for name in names)


def described(tables: Mapping[str, Config]) -> tuple[str, Config]:
    """The name of the table that describes RoPE, and what it says; an empty one where none does."""
    return next(((name, given) for name, given in tables.items() if given), (TABLES[1], {}))


def kind_of(given: Config) -> str:
    """The kind of scaling that a table names."""
    return next((given[field] for field in TYPES if given.get(field) is not None), "default")


def _parameters(given: Config, name: str, kind: str) -> dict[str, float]:
    needed, optional = FIELDS[kind]
    parameters: dict[str, float] = {}
    for field in (*needed, *(field for field in optional if given.get(field) is not None)):
        where = f"{name}.{field}"
        value = {where: given.get(field)}
        if field == ORIGINAL:
            parameters[field] = float(integer(value, where))
        elif field == "truncate":
            parameters[field] = float(boolean(value, where))
        else:
            parameters[field] = number(value, where, 1.0 if field == "factor" else 0.0, 1e9)
    if kind == "llama3" and parameters["low_freq_factor"] >= parameters["high_freq_factor"]:
        expected = f"less than high_freq_factor, {parameters['high_freq_factor']:g}"
        problem, field = "the bands of RoPE's frequencies overlap", f"{name}.low_freq_factor"
        raise wrong(problem, field, expected, parameters["low_freq_factor"])
    return parameters


def turned(config: Config, given: Config, name: str, head_dim: int, absent: float) -> int:
    """How many dimensions of a head are turned: the table says it, or the config itself, in one of two names."""
    places = {
        f"{name}.{PARTIAL}": given.get(PARTIAL),
        **{field: config.get(field) for field in (PARTIAL, "rotary_pct")},
    }
    shares = {where: number({where: part}, where, 0.0, 1.0) for where, part in places.items() if part is not None}
    if len(set(shares.values())) > 1:
        problem = "the config says twice how much of a head is turned"
        raise wrong(problem, " and ".join(shares), "one of them", shares)
    where, share = next(iter(shares.items()), (PARTIAL, absent))
    dims = int(share * head_dim)
    if dims < 2 or dims % 2:
        raise wrong("RoPE turns pairs of dimensions", where, f"an even part of {head_dim}", share)
    return dims


def theta_of(config: Config, tables: Mapping[str, Config]) -> float:
    """Theta, from a table or from the config itself.

    Raises:
        CheckpointError: it stands nowhere, or in two places with two values.
    """
    places = {f"{name}.rope_theta": given for name, given in tables.items()} | {"rope_theta": config}
    thetas = {
        where: number({where: place["rope_theta"]}, where, *THETAS)
        for where, place in places.items()
        if place.get("rope_theta") is not None
    }
    if not thetas:
        problem = "the config says nowhere what the RoPE theta is"
        raise refused(problem, "rope_theta or rope_parameters.rope_theta", "a number", "nothing", GUESS)
    if len(set(thetas.values())) > 1:
        first, second = thetas.values()
        problem, both = "the config gives two RoPE thetas", " and ".join(thetas)
        raise refused(problem, both, first, second, "remove the wrong one")
    return next(iter(thetas.values()))


def _growth(given: Config, name: str) -> tuple[float, float]:
    """Beta, and the length after which queries grow."""
    values = {f"{name}.{field}": given.get(field) for field in (GROWTH[0], ORIGINAL)}
    beta, length = values
    return number(values, beta, 0.0, 10.0), float(integer(values, length))


def _refuse_unknown(name: str, given: Config, kinds: tuple[str, ...], more: tuple[str, ...]) -> None:
    """Refuse a kind, or a field, that this family does not have."""
    said = {field: given[field] for field in TYPES if field in given}
    for field, kind in (said or {TYPES[0]: "default"}).items() if given else ():
        if kind not in kinds:
            problem = "this kind of RoPE scaling is not supported in this family"
            hint = "check a checkpoint without it" if kinds == ("default",) else RESTORE
            hint = DYNAMIC if kind == "dynamic" else hint
            raise wrong(problem, f"{name}.{field}", " or ".join(kinds), kind, hint)
    if len({given[field] for field in TYPES if field in given}) > 1:
        raise wrong("the config names two kinds of RoPE", f"{name}: {' and '.join(TYPES)}", "one", dict(given))
    needed, optional = FIELDS[kind_of(given)]
    known = (*TYPES, "rope_theta", *needed, *optional, *more)
    for field, value in given.items():
        if field in known or value is None or (field == PARTIAL and value == 1):
            continue
        raise wrong(UNKNOWN, f"{name}.{field[:80]}", ", ".join(known), value, REMOVE)
