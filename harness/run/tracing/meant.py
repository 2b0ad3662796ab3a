"""The number that was meant by one that a narrow float has rounded: known, or said to be unknown.

`8 ** -0.5` stands in a float32 jaxpr as 0.35355338, and no rule recovers what a program computed before it
rounded. What can be recognised is what is rare by chance: a number of few bits, a short decimal, a closed form. Of
float32's numbers less than 4 in 100 are taken for one of these without being it, and then moved by half a unit in
the last place at most. Everything else keeps its rounding, and whoever asks is told (`None`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import e, log, log2, pi, sqrt

import numpy as np

# What a number of each type shows: significant bits and decimals that are few for it, and integers whose roots are
# told apart in it.
FEW = {"float32": (12, 6, 16384), "float16": (5, 2, 128), "bfloat16": (4, 1, 128)}
CONSTANTS = {
    "sqrt(2 / pi)": sqrt(2 / pi),
    "sqrt(2)": sqrt(2),
    "sqrt(pi)": sqrt(pi),
    "pi": pi,
    "2 pi": 2 * pi,
    "pi / 2": pi / 2,
    "e": e,
    "log(2)": log(2),
    "log2(e)": log2(e),
    "log(10)": log(10),
}
# Hides a score, or stands for infinity: nothing is computed with its digits.
ENORMOUS = 1e30
# Two closed forms are one number where they agree to this.
SAME = 1e-13
# Longer tables are recognised by their bits alone.
MOST_RECOGNISED = 256


@dataclass(frozen=True)
class Meant:
    """A number in float64.

    Attributes:
        form: how a person writes it, where digits do not say it; empty otherwise.
    """

    value: float
    form: str = ""


def meant(number: np.ndarray | np.generic) -> Meant | None:
    """The number that rounds to a narrow one; None where it is not known, or where there are several."""
    value = float(number)
    if not np.isfinite(value) or value == 0 or abs(value) > ENORMOUS:
        return Meant(value)
    found = [m for m in _candidates(number) if np.asarray(m.value).astype(number.dtype) == number]
    if not found or any(abs(m.value - found[0].value) > SAME * abs(value) for m in found):
        return None
    return found[0]


def meant_all(values: np.ndarray) -> np.ndarray | None:
    """A table in float64, each number as it was meant; None where one of them is not known.

    Numbers of few bits stand for themselves: parameters that a checkpoint stores in bfloat16, in float32.
    """
    exact = values.astype(np.float64)
    if values.dtype != np.float32 or _of_few_bits(values):
        return exact
    if values.size > MOST_RECOGNISED:
        return None
    known = [meant(number) for number in values.ravel()]
    found = [m.value for m in known if m is not None]
    return np.reshape(found, values.shape) if len(found) == len(known) else None


def _candidates(number: np.ndarray | np.generic) -> Iterator[Meant]:
    bits, digits, largest = FEW[number.dtype.name]
    value = float(number)
    size, sign = abs(value), np.sign(value)
    mantissa = np.frexp(size)[0] * 2.0**bits
    if mantissa == round(mantissa) or (size == round(size) and size < 2**24):
        yield Meant(value)
    decimal = f"{size:.{digits - 1}e}"
    yield Meant(sign * float(decimal))
    for power, form in ((-1.0, "1 / {}"), (-0.5, "{} ** -0.5"), (0.5, "{} ** 0.5"), (-0.25, "{} ** -0.25")):
        n = round(min(size ** (1 / power), largest + 1.0))
        if 2 < n <= largest:
            yield Meant(sign * float(n) ** power, ("-" if sign < 0 else "") + form.format(n))
    for form, constant in CONSTANTS.items():
        yield Meant(sign * constant, ("-" if sign < 0 else "") + form)


def _of_few_bits(values: np.ndarray) -> bool:
    """Whether no float32 in it has more than 12 significant bits."""
    raw = np.ascontiguousarray(values).view(np.uint32)
    return not np.bitwise_and(raw, 0xFFF).any()
