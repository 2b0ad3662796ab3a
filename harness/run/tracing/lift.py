"""Float64 in place of float32, bfloat16 and float16, equation by equation.

A port that says `astype(float32)` in its norm computes float32 there whatever it is given, and a float64 check of
it would see nothing below 1e-7. Its jaxpr has every one of those casts as data, so they can be lifted. What
cannot be lifted is refused (`CannotLift`), never left narrow in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jax.extend.source_info_util import summarize

from harness.run.contained import CannotLift
from harness.run.tracing.evaluate import INLINE, Evaluator, Native, bind
from harness.run.tracing.meant import MOST_RECOGNISED, meant, meant_all
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
            found = bind(equation, operands, params)
        except Exception as error:  # it was traced as it stands: what it refuses is the lifting
            raise _refused(equation, error) from error
        if any(value.dtype in WIDE for value in found):
            raise _refused(equation)
        return found

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
