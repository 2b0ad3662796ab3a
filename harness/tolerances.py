"""(precision, tap) -> limit, and why that limit.

Limits are in noise multiples, so that one number serves every tap, position and model. They stand where
measurement put them: well above every correct port, well below the weakest known bug.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import UsageError

PRECISIONS = ("float64", "float32", "bfloat16")


@dataclass(frozen=True)
class Limit:
    """The largest noise multiples that still count as rounding.

    Attributes:
        rms: limit on the rms noise multiple, at the worst position.
        max: limit on the max-abs noise multiple, at the worst position.
        why: the measurements that it rests on.
    """

    rms: float
    max: float
    why: str


LIMITS = {
    "float64": Limit(
        rms=1e5,
        max=1e6,
        why="float64 has no recorded floor, so multiples count half-ulps of the values themselves: correct "
        "ports reach about 1e2 (relative 1e-14), a float32 constant left inside a port 1e8, the weakest "
        "known bug (eps added outside the root) 6e9",
    ),
    "float32": Limit(
        rms=4.0,
        max=8.0,
        why="correct ports stay below 2.3 (rms) and 2.7 (max); bugs start at 7.5 at the logits (wrong norm "
        "eps) and at 1e3 at the tap where they sit",
    ),
    "bfloat16": Limit(
        rms=4.0,
        max=8.0,
        why="the same multiples of a floor that is 65,536 times higher; bugs smaller than bfloat16's own "
        "rounding are invisible here and belong to the float32 and float64 checks",
    ),
}


def limit(precision: str, rms: float | None = None, max_abs: float | None = None) -> Limit:
    """The limit at a precision, with the user's own values where given.

    Raises:
        UsageError: an unknown precision, or a limit that is not a positive number.
    """
    if precision not in LIMITS:
        raise UsageError(
            "unknown precision",
            where="--precision",
            expected=", ".join(PRECISIONS),
            found=precision,
            hint="for example --precision float64,float32",
        )
    for option, value in (("--limit-rms", rms), ("--limit-max", max_abs)):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError("a limit must be a positive number", where=option, found=value, hint="for example 4")
    base = LIMITS[precision]
    if rms is None and max_abs is None:
        return base
    return Limit(rms or base.rms, max_abs or base.max, "set on the command line")
