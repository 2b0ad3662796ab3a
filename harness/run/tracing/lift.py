"""Float64 in place of float32, bfloat16 and float16, equation by equation.

A port that says `astype(float32)` in its norm computes float32 there whatever it is given, and a float64 check of
it would see nothing below 1e-7. Its jaxpr has every one of those casts as data, so they can be lifted. What
cannot be lifted is refused (`CannotLift`), never left narrow in silence.

A number is given back what it was before it was rounded, where that is known. `8 ** -0.5` stands in a float32
jaxpr as 0.35355338, and no rule recovers what a program computed before it rounded. What can be recognised is
what is rare by chance: a number of few bits, a short decimal, a closed form. Of float32's numbers less than 4 in
100 are taken for one of these without being it, and then moved by half a unit in the last place at most.
Everything else keeps its rounding, and whoever asks is told (`None`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import e, log, log2, pi, sqrt
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jax.extend.source_info_util import summarize

from harness.run.contained import CannotLift
from harness.run.tracing.evaluate import INLINE, Evaluator, Native, bind
from harness.run.tracing.versions import jaxprs_in_params

WIDE = {
    jnp.dtype(narrow): jnp.dtype(wide)
    for narrow, wide in {
        "float32": "float64",
        "bfloat16": "float64",
        "float16": "float64",
        "complex64": "complex128",
    }.items()
}
# They name bits, not numbers, or leave JAX: their float32 cannot be told from the outside.
OPAQUE = frozenset({
    "bitcast_convert_type",
    "pallas_call",
    "tpu_custom_call",
    "ffi_call",
    "custom_call",
    "pure_callback",
    "io_callback",
    "shard_map",
})  # fmt: skip
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


def _refused(equation: JaxprEqn, error: Exception | None = None) -> CannotLift:
    return CannotLift(f"{equation.primitive.name} at {summarize(equation.source_info)}", error)


class Lifted(Native):
    """Arithmetic for `Evaluator` in which every narrow float is wide. Trace and run it under `enable_x64`.

    Attributes:
        casts, literals: how many narrow casts and how many narrow numbers were lifted.
    """

    opens = frozenset(INLINE)

    def __init__(self) -> None:
        self.casts = 0
        self.literals = 0

    def constant(self, value: Any) -> Any:
        """A constant, each number as it was meant where that is known (`meant`), and as it stands elsewhere."""
        wide = WIDE.get(jnp.dtype(value.dtype)) if hasattr(value, "dtype") else None
        if wide is None:
            return value
        known = None
        if not isinstance(value, Tracer) and wide.kind == "f" and np.size(value) <= MOST_RECOGNISED:
            known = meant_all(np.asarray(value))
        return jnp.asarray(value).astype(wide) if known is None else jnp.asarray(known, wide)

    def literal(self, literal: Literal) -> Any:
        """The number that was meant: `eps=1e-6` stands in a float32 jaxpr as 9.99999997e-07."""
        value = np.asarray(literal.val)
        wide = WIDE.get(value.dtype)
        if wide is None:
            return literal.val
        self.literals += 1
        if wide.kind == "c" or value.ndim:
            return self.constant(value)
        known = meant(value)
        return jnp.asarray(float(value) if known is None else known.value, wide)

    def apply(self, equation: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
        name = equation.primitive.name
        if name == "reduce_precision":  # rounding is all that it does
            self.casts += 1
            return [operands[0]]
        if name in OPAQUE and _touches_floats(equation):
            raise _refused(equation)
        params = {key: self._parameter(value) for key, value in equation.params.items()}
        if name in ("dot_general", "conv_general_dilated"):
            params["precision"] = None  # presets name narrow types; float64 has only one precision
        try:
            outputs = bind(equation, operands, params)
        except Exception as error:  # it was traced as it stands: what it refuses is the lifting
            raise _refused(equation, error) from error
        if any(value.dtype in WIDE for value in outputs):
            raise _refused(equation)
        return outputs

    def _parameter(self, value: Any) -> Any:
        """A parameter that names a dtype, or holds code (a loop's, the sum in a scatter-add), lifted."""
        if isinstance(value, np.dtype) and value in WIDE:
            self.casts += 1
            return WIDE[value]
        if isinstance(value, ClosedJaxpr):
            return self._code(value)
        if isinstance(value, Jaxpr):
            return self._code(ClosedJaxpr(value, ())).jaxpr
        return tuple(map(self._parameter, value)) if type(value) is tuple else value

    def _code(self, code: ClosedJaxpr) -> ClosedJaxpr:
        avals = [var.aval for var in code.jaxpr.invars]
        arguments = [
            jax.ShapeDtypeStruct(aval.shape, WIDE.get(aval.dtype, aval.dtype), sharding=aval.sharding)
            for aval in avals
        ]
        evaluate = Evaluator(lambda _, value: value, self)
        return jax.make_jaxpr(lambda *given: evaluate(code.jaxpr, code.consts, given))(*arguments)


def _touches_floats(equation: JaxprEqn) -> bool:
    atoms = (*equation.invars, *equation.outvars)
    inner = [v for jaxpr in jaxprs_in_params(equation.params) for v in (*jaxpr.invars, *jaxpr.outvars)]
    return any(getattr(atom.aval, "dtype", None) in WIDE for atom in (*atoms, *inner))


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
    fitting = [m for m in _candidates(number) if np.asarray(m.value).astype(number.dtype) == number]
    if not fitting or any(abs(m.value - fitting[0].value) > SAME * abs(value) for m in fitting):
        return None
    return fitting[0]


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
    recognised = [m.value for m in known if m is not None]
    return np.reshape(recognised, values.shape) if len(recognised) == len(known) else None


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
