"""JSON that has one meaning: what readers of JSON disagree about is refused.

Python takes the last of two equal keys, reads NaN and Infinity, which no JSON has, 1e999 as infinity, and an
escaped half of a surrogate pair as a character that cannot be written again.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

DEEPEST = 64


def parse(content: bytes) -> Any:
    """The value of a JSON text in UTF-8.

    Raises:
        ValueError: it is not JSON, not UTF-8, nested deeper than `DEEPEST`, has one key twice in an object, a
            number that is not finite, or a text that is not Unicode.
    """
    try:
        value = json.loads(
            content.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant, parse_float=_float
        )
    except RecursionError:
        raise _too_deep() from None
    _check_depth(value)
    json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone surrogate is a UnicodeEncodeError, a ValueError
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"one object has the key {key[:80]!r} twice")
        made[key] = value
    return made


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:80]} is beyond every float")
    return value


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(DEEPEST):
        below = (inner for one in level for inner in (one.values() if isinstance(one, dict) else one))
        level = [inner for inner in below if isinstance(inner, (dict, list))]
    if level:
        raise _too_deep()


def _too_deep() -> ValueError:
    return ValueError(f"it is nested deeper than {DEEPEST} levels")
