"""Fields of a config.json, read as what they have to be. One that is missing is refused, and never defaulted."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

from harness.errors import CheckpointError

Config = Mapping[str, Any]

RESTORE = "restore the field from the published config.json"
REMOVE = "remove it from a copy of config.json if it changes nothing; if it does, the model is another one"
GUESS = f"{RESTORE}; a default would be a guess"
MOST = 2**53  # as far as a number of JSON counts in every reader


def required(config: Config, field: str) -> Any:
    """The value of a field.

    Raises:
        CheckpointError: there is none, or it is null.
    """
    if config.get(field) is None:
        raise refused("the config lacks a field", field, "a value", "nothing", GUESS)
    return config[field]


def number(config: Config, field: str, least: float = -math.inf, most: float = math.inf) -> float:
    """The value of a field that holds a number, from `least` to `most`.

    Raises:
        CheckpointError: it holds none, one that is not finite, or one outside the bounds.
    """
    value = required(config, field)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong("a field of the config is not a number", field, "a number", value)
    try:
        as_float = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        as_float = math.inf
    if not math.isfinite(as_float):
        raise wrong("a field of the config is not a finite number", field, "a number", value)
    if not least <= as_float <= most:
        raise wrong("a field of the config has an absurd value", field, f"{least:g} to {most:g}", value)
    return as_float


def integer(config: Config, field: str, least: int = 1, most: int = MOST) -> int:
    """The value of a field that counts something.

    Raises:
        CheckpointError: it is no whole number, less than `least`, or more than `most`.
    """
    value = number(config, field)
    if not value.is_integer() or value < least:
        positive = "positive " if least else ""
        raise wrong(f"a field of the config is not a {positive}whole number", field, f"{least} or more", value)
    if value > most:
        raise wrong("a field of the config has an absurd value", field, f"at most {most:,}", value)
    return int(value)


def boolean(config: Config, field: str) -> bool:
    """The value of a field that is true or false.

    Raises:
        CheckpointError: it is neither. A text such as "false" would count as true.
    """
    value = required(config, field)
    if not isinstance(value, bool):
        raise wrong("a field of the config is neither true nor false", field, "true or false", value)
    return value


def text(config: Config, field: str) -> str:
    """The value of a field that holds a text.

    Raises:
        CheckpointError: it holds none.
    """
    value = required(config, field)
    if not isinstance(value, str):
        raise wrong("a field of the config is not a text", field, "a text", value)
    return value


def table(config: Config, field: str) -> Config:
    """The value of a field that holds an object; an empty one where it is missing or null.

    Raises:
        CheckpointError: it holds something else.
    """
    value = config.get(field)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise wrong("a field of the config is not an object", field, "a JSON object", value)
    return value


def wrong(problem: str, field: str, expected: object, value: object, hint: str = RESTORE) -> CheckpointError:
    """The refusal of a field's value, which is shown in short."""
    return refused(problem, field, expected, reprlib.repr(value), hint)


def refused(problem: str, field: str, expected: object, found: object, hint: str) -> CheckpointError:
    """The refusal of what fields say, or do not say."""
    return CheckpointError(problem, f"config.json: {field}", expected, found, hint=hint)
