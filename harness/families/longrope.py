"""LongRoPE, as Phi 3 has it (Ding et al. 2024): factors up to the original length, and others beyond."""

from __future__ import annotations

import math

from harness.families.frequencies import ORIGINAL
from harness.families.options import Rope
from harness.families.rope import PARTIAL, TABLES, TYPES, described, kind_of, theta_of, turned
from harness.fields import Config, integer, number, table, wrong

NAMES = ("longrope", "su", "yarn")  # Phi3Config reads the last two as the first
FACTORS = ("short_factor", "long_factor")
KNOWN = frozenset({*TYPES, "rope_theta", PARTIAL, ORIGINAL, *FACTORS, "factor", "attention_factor"})


def longrope(config: Config, head_dim: int) -> Rope | None:
    """The rotation of every layer; None where the config asks for another kind.

    Raises:
        CheckpointError: a field is missing, of another type or length, or not known; two tables.
    """
    tables = {name: table(config, name) for name in TABLES}
    name, given = described(tables)
    if kind_of(given) not in NAMES:
        return None
    for field, value in given.items():
        if field not in KNOWN and value is not None:
            raise wrong(
                "the config has a field of RoPE that is not known here", f"{name}.{field[:80]}", KNOWN, value
            )
    dims = turned(config, given, name, head_dim, 1.0)
    # Phi3Config: the field at the top goes before the one in the table.
    original = integer(config if config.get(ORIGINAL) is not None else given, ORIGINAL)
    if given.get("factor") is None:
        factor = integer(config, "max_position_embeddings") / original
    else:
        factor = number(given, "factor", 1.0, 1e9)
    if given.get("attention_factor") is None:
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    else:
        attention = number(given, "attention_factor", 0.0, 1e9)
    short, long = (_factors(given, name, field, dims // 2) for field in FACTORS)
    return Rope(
        theta=theta_of(config, tables),
        dims=dims,
        kind="longrope",
        parameters=(("attention_factor", attention), (ORIGINAL, float(original))),
        factors=(short, long),
    )


def _factors(given: Config, name: str, field: str, count: int) -> tuple[float, ...]:
    listed, where = given.get(field), f"{name}.{field}"
    if not isinstance(listed, list) or len(listed) != count:
        raise wrong("this list does not have a factor for every pair", where, f"{count} numbers", listed)
    return tuple(number({where: value}, where, 1e-6, 1e6) for value in listed)
