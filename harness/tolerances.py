"""precision -> limit, and why that limit.

Limits are in noise multiples, so that one number serves every tap, position and model. They stand where
measurement put them: well above every correct port, well below the weakest known bug.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import UsageError

# The figures in the reasons come from `python -m tests.benchmarks.figures`.

PRECISIONS = ("float64", "float32", "bfloat16")


@dataclass(frozen=True)
class Limit:
    """The largest noise multiples that still count as rounding.

    Attributes:
        rms: limit on the rms noise multiple, at the worst position.
        max: limit on the max-abs noise multiple, at the worst position.
        why: the measurements that it rests on.
        weakest_bug: the rms multiple of the weakest known bug, at the tap where it sits (embedded golden,
            `goldens audit`).
    """

    rms: float
    max: float
    why: str
    weakest_bug: float


LIMITS = {
    "float64": Limit(
        rms=1e5,
        max=1e6,
        why="float64 has no recorded floor, so multiples count half-ulps of the values themselves: the built-in "
        "port reaches 37 (rms) and 69 (max) on the embedded golden, a constant rounded to float32 would be 5e8, "
        "the weakest known bug (products in three bfloat16 passes) is 3.2e11 where it sits",
        weakest_bug=3.2e11,
    ),
    "float32": Limit(
        rms=4.0,
        max=8.0,
        why="the built-in port reaches 3.1 (rms) and 3.6 (max) on the embedded golden, the weakest known bug "
        "(products in three bfloat16 passes) is 109 where it sits",
        weakest_bug=109.0,
    ),
    "bfloat16": Limit(
        rms=4.0,
        max=8.0,
        why="the built-in port reaches 3.0 (rms) and 3.9 (max) on the embedded golden; bugs smaller than "
        "bfloat16's own rounding (a wrong eps, logits capped at 30) belong to float32 and float64",
        weakest_bug=2.4,
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
    return Limit(rms or base.rms, max_abs or base.max, "set on the command line", base.weakest_bug)
