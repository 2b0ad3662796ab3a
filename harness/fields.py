"""Fields of a config.json, read as what they have to be. One that is missing is refused, and never defaulted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.errors import CheckpointError

Config = Mapping[str, Any]


def required(config: Config, field: str) -> Any:
    """The value of a field.

    Raises:
        CheckpointError: there is none, or it is null.
    """
    if config.get(field) is None:
        raise CheckpointError(
            "the config lacks a field",
            where=f"config.json: {field}",
            expected="a value",
            found="nothing",
            hint="restore the field from the published config.json; a default would be a guess",
        )
    return config[field]


def number(config: Config, field: str) -> float:
    """The value of a field that holds a number.

    Raises:
        CheckpointError: it holds none.
    """
    value = required(config, field)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CheckpointError(
            "a field of the config is not a number",
            where=f"config.json: {field}",
            expected="a number",
            found=repr(value),
            hint="restore the field from the published config.json",
        )
    return float(value)


def integer(config: Config, field: str, least: int = 1) -> int:
    """The value of a field that counts something.

    Raises:
        CheckpointError: it is no whole number, or less than `least`.
    """
    value = number(config, field)
    if value != int(value) or value < least:
        raise CheckpointError(
            f"a field of the config is not a {'positive ' if least else ''}whole number",
            where=f"config.json: {field}",
            expected=f"{least} or more",
            found=value,
            hint="restore the field from the published config.json",
        )
    return int(value)
