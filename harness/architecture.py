"""The architecture that a config.json describes, whichever dialect it is written in.

Checkpoints on the hub carry `rope_theta`, `rope_scaling` and `torch_dtype`; transformers 5 writes
`rope_parameters` and `dtype`. Both are read; a field that is in neither place is refused, because
the default that would fill it is exactly how a wrong theta goes unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from harness.errors import CheckpointError
from harness.families import Family, families, family_named, names
from harness.families.neutral import FIELD, Named, Read, quantisation_of, refuse_unknown
from harness.families.options import Architecture as Architecture
from harness.fields import Config as Config
from harness.fields import wrong
from harness.foreign import MIB, parse, read_regular

OTHER_FAMILY = "check a checkpoint of a family that is known here; `goldens list` prints them"
AGAIN = "copy the checkpoint again"
LONGEST = 16 * MIB  # of a config.json


def read_config(checkpoint: Path) -> dict[str, Any]:
    """The config.json of a checkpoint directory.

    Raises:
        CheckpointError: there is none, it cannot be read, or it is not JSON of one meaning.
    """
    path = checkpoint / "config.json"
    try:
        config = parse(read_regular(path, LONGEST))
    except FileNotFoundError:
        from harness.recognise import without_config

        hint = without_config(checkpoint)
        raise CheckpointError("the checkpoint has no config.json", checkpoint, hint=hint) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"config.json cannot be read: {error}", path, hint=AGAIN) from None
    if not isinstance(config, dict):
        raise CheckpointError("config.json is not a JSON object", path, hint=AGAIN)
    return config


def family_of(config: Config) -> Family:
    """The family of a config.

    Raises:
        CheckpointError: it is not known here.
    """
    name = config.get("model_type")
    if not isinstance(name, str) or (name not in names() and name not in families()):
        from harness.recognise import INNER, OTHERS

        reason, hint = OTHERS.get(str(name), ("", INNER if "text_config" in config else OTHER_FAMILY))
        problem = f"this model family is not supported{reason and f': {reason}'}"
        raise wrong(problem, "model_type", " or ".join(families()), name, hint)
    return family_named(name)


def architecture_of(config: Config) -> Architecture:
    """The architecture that a config describes, in either dialect.

    Raises:
        CheckpointError: an unknown family, a missing, unknown or contradictory field, an absurd value, or a
            feature that nothing here computes.
    """
    family, seen = family_of(config), Read(config)
    arch = family.read(Named(seen, family.names))
    refuse_unknown(config, seen.fields, family)
    return arch


def difference(golden: Config, candidate: Config) -> list[tuple[str, object, object]]:
    """The fields in which two configs describe different functions: (field, golden, candidate)."""
    expected, actual = (
        {**dict(_facts(architecture_of(config))), FIELD: quantisation_of(config, family_of(config))}
        for config in (golden, candidate)
    )
    names = dict.fromkeys((*expected, *actual))
    return [(n, expected.get(n), actual.get(n)) for n in names if expected.get(n) != actual.get(n)]


def _facts(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """What an architecture says, each thing by a name: `norm.eps`, `ropes.0.theta`."""
    if is_dataclass(value):
        for field in fields(value):
            yield from _facts(getattr(value, field.name), f"{name}.{field.name}".lstrip("."))
    elif isinstance(value, tuple) and any(is_dataclass(item) for item in value):
        for index, item in enumerate(value):
            yield from _facts(item, f"{name}.{index}")
    else:
        yield name, value
