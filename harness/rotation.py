"""RoPE, as a config describes it: theta, from whichever dialect, and nothing that would scale it.

The hub's dialect has `rope_theta` at the top and `rope_scaling` beside it; transformers 5 has both in
`rope_parameters`. Given together, transformers reads `rope_scaling` alone, and other stacks another one of them.
"""

from __future__ import annotations

from harness.errors import CheckpointError
from harness.fields import GUESS, Config, number, table, wrong

TABLES = ("rope_parameters", "rope_scaling")
KINDS = ("rope_type", "type")  # of two spellings the second is the older one
# 1 turns every pair alike; beyond the largest float32 there is no float32 to compare with.
THETAS = (1.0, 1e30)


def rope_theta(config: Config) -> float:
    """theta, of a rotation that is not scaled.

    Raises:
        CheckpointError: there is no theta, or more than one; a kind of RoPE, or a field of it, that nothing here
            computes; two descriptions of it.
    """
    tables = {name: table(config, name) for name in TABLES}
    for name, one in tables.items():
        _refuse_scaled(name, one)
    if all(tables.values()):
        raise wrong(
            "the config describes RoPE twice, in two dialects",
            " and ".join(TABLES),
            "one of the two",
            [dict(one) for one in tables.values()],
            "remove the wrong one; transformers goes by rope_scaling where both are given",
        )
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
        problem = "the config gives two RoPE thetas"
        raise CheckpointError(
            problem,
            where=f"config.json: {' and '.join(found)}",
            expected=first,
            found=second,
            hint="remove the wrong one",
        )
    return next(iter(found.values()))


def _refuse_scaled(name: str, rope: Config) -> None:
    """Refuse whatever is not the plain rotation."""
    for field in KINDS:
        if rope.get(field, "default") != "default":
            raise wrong(
                "this kind of RoPE scaling is not supported yet",
                f"{name}.{field}",
                "default",
                rope[field],
                "check a checkpoint without RoPE scaling",
            )
    for field, value in rope.items():
        if field in (*KINDS, "rope_theta") or value is None or (field == "partial_rotary_factor" and value == 1):
            continue
        raise wrong(
            "the config has a field of RoPE that is not supported yet",
            f"{name}.{field[:80]}",
            "rope_type and rope_theta alone",
            value,
            "check a checkpoint without RoPE scaling",
        )
