"""Precision settings inside a port: what its own code asks of matrix products, read from the traced program.

A `precision=` argument, a narrow `preferred_element_type` or a `with jax.default_matmul_precision(...)` inside the
port wins over what the harness puts in force. None of them can be seen from outside, but the jaxpr holds them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.extend import source_info_util
from jax.extend.core import Jaxpr, JaxprEqn

from harness.errors import HarnessError, PortError
from harness.run.contained import blaming_the_port, described
from harness.run.port import Call, Port
from harness.run.precision import FULL, is_reduced
from harness.run.tapping import no_tap

PRODUCTS = frozenset({"dot_general", "ragged_dot_general", "conv_general_dilated"})
AUDITED_DTYPES = ("float32", "float64")
Kind = tuple[int, int, bool]  # of a case: rows, tokens of its first call, and whether it goes through a cache
_SHORT = {"float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True)
class ReducedMatmul:
    """A matrix product that computes with less than the precision of its operands.

    Attributes:
        asks_for: the setting: `precision default` (which is also what `bfloat16` becomes), `precision high`
            (`tensorfloat32` too), a preset such as `precision BF16_BF16_F32`, or
            `preferred_element_type bfloat16`.
        where: `file:line (function)`, the user's frame closest to it.
    """

    primitive: str
    asks_for: str
    where: str


@dataclass(frozen=True)
class Audit:
    """What the trace of a port showed, or why there is none."""

    reduced: tuple[ReducedMatmul, ...] = ()
    failure: str | None = None


def reduced_matmuls(jaxpr: Jaxpr, backend: str) -> tuple[ReducedMatmul, ...]:
    """The float32 and float64 products of a program that are reduced on a backend, in program order.

    Nested programs (jit, scan, while, cond, custom derivatives, remat, shard_map) are read as well, each as
    often as it is called; a loop's body counts once.
    """
    from harness.run.tracing.versions import jaxprs_in_params

    reduced: list[ReducedMatmul] = []
    for equation in jaxpr.eqns:
        asked = _reduction(equation, backend)
        if asked is not None:
            where = source_info_util.summarize(equation.source_info)
            reduced.append(ReducedMatmul(equation.primitive.name, asked, where))
        for inner in jaxprs_in_params(equation.params):
            reduced += reduced_matmuls(inner, backend)
    return tuple(reduced)


def audit(port: Port, calls: Sequence[Call]) -> Audit:
    """Read what the matrix products of a case's calls ask for, in a trace of them. Nothing is computed.

    Of several calls those are traced that differ in length: steps are all alike. None is, where the port keeps the
    programs that it ran (`programs(calls)`).

    Inputs are constants of the trace and not its arguments, so that a port may look at them. A port that reads its
    weights as it runs offers `without_weights()`, itself with zeros in their place: a trace of the port itself
    would hold all of them at once.
    """
    calls = _of_each_length(calls)
    # Our own default is in force, so that what is found was asked for by the port.
    in_force = jax.config.jax_default_matmul_precision == FULL
    try:
        with blaming_the_port("forward, traced"), jax.default_matmul_precision(FULL):
            programs = port.programs(calls) if in_force and hasattr(port, "programs") else []
            port = port.without_weights() if hasattr(port, "without_weights") else port
            programs = programs or [jax.make_jaxpr(lambda: _run(port, calls))().jaxpr]
            backend = jax.default_backend()
            return Audit(tuple(one for program in programs for one in reduced_matmuls(program, backend)))
    except HarnessError as error:
        return Audit(failure=described(error.__cause__ or error))


def _of_each_length(calls: Sequence[Call]) -> list[Call]:
    """Of calls of one length the first alone."""
    first: dict[int, Call] = {}
    for call in calls:
        first.setdefault(call.input_ids.shape[1], call)
    return list(first.values())


def _run(port: Port, calls: Sequence[Call]) -> list[jax.Array]:
    """The logits of a case's calls, the cache handed on."""
    cache, returned = calls[0].cache, list[jax.Array]()
    for call in calls:
        logits, cache = port.forward(call.input_ids, call.positions, call.mask, cache, no_tap)
        returned.append(logits)
    return returned


def judge(audits: Collection[Audit], precision: str, allow_reduced: bool) -> tuple[str, ...]:
    """What a report has to say about audits: of each what the others had not, or the first failure.

    Raises:
        PortError: the port reduces the precision of float32 or float64, and that is not waived.
    """
    products: list[ReducedMatmul] = []
    for audit in audits:
        known = set(products)
        products += [matmul for matmul in audit.reduced if matmul not in known]
    if not products:
        failures = [audit.failure for audit in audits if audit.failure is not None]
        return tuple(f"precision settings inside the port could not be inspected: {why}" for why in failures[:1])
    settings = ", ".join(dict.fromkeys(matmul.asks_for for matmul in products))
    count, first = f"{len(products)} matrix product{'' if len(products) == 1 else 's'}", products[0]
    if allow_reduced and precision == "float32":
        return (f"waived: {count} of the port ran at {settings}, set inside it; first at {first.where}",)
    raise PortError(
        f"the port itself reduces the precision of {count} in the {precision} check",
        where=f"{first.primitive} at {first.where}",
        expected=FULL,
        found=f"{settings} on {jax.default_backend()}",
        hint="remove `precision=`, `preferred_element_type=` or jax.default_matmul_precision there, or check "
        "float32 as it is deployed: --precision float32 --allow-reduced-precision",
    )


class Inspection:
    """What a port's code asks of matrix products, looked into once for each kind of case and precision."""

    def __init__(self) -> None:
        self._known: dict[str, dict[Kind, Audit]] = {}

    def notes(
        self, precision: str, port: Port, sequences: Sequence[Sequence[Call]], allow_reduced: bool
    ) -> tuple[str, ...]:
        """What a report has to say about precision settings inside the port.

        To be asked after it ran, and on inputs that it has seen: a port that keeps tables for later would
        otherwise keep what is only a tracer.

        Raises:
            PortError: the port reduces the matmul precision by itself.
        """
        if precision == "bfloat16" or not sequences:
            return ()
        known = self._known.setdefault(precision, {})
        # One case for each kind is worth a trace: a port may take another way for another shape.
        kinds: dict[Kind, Sequence[Call]]
        kinds = {(*calls[0].input_ids.shape, len(calls) > 1): calls for calls in sequences}
        for kind, calls in kinds.items():
            if kind not in known:
                known[kind] = audit(port, calls)
        return judge(known.values(), precision, allow_reduced)


def _reduction(equation: JaxprEqn, backend: str) -> str | None:
    """The setting by which an equation computes with less than the precision of its operands, if there is one."""
    if equation.primitive.name not in PRODUCTS:
        return None
    operands = max((variable.aval.dtype for variable in equation.invars[:2]), key=lambda dtype: dtype.itemsize)
    if operands.name not in AUDITED_DTYPES:
        return None
    for name in _names(equation.params["precision"]):
        if is_reduced(backend, name, operands.name):
            return f"precision {name}"
    result = equation.params["preferred_element_type"]
    if result is not None and jnp.dtype(result).itemsize < operands.itemsize:
        return f"preferred_element_type {jnp.dtype(result).name}"
    return None


def _names(precision: object) -> Sequence[str]:
    """An equation's `precision` by the names that `jax_default_matmul_precision` takes."""
    if precision is None:
        return ("default",)
    if isinstance(precision, jax.lax.DotAlgorithm):
        parts = (precision.lhs_precision_type, precision.rhs_precision_type, precision.accumulation_type)
        name = "_".join(_SHORT.get(jnp.dtype(part).name, jnp.dtype(part).name) for part in parts)
        products = precision.num_primitive_operations
        return (name if products == 1 else f"{name}_X{products}",)
    if isinstance(precision, jax.lax.DotAlgorithmPreset):
        return (precision.name,)
    assert isinstance(precision, tuple)
    return tuple(level.name.lower() for level in precision)
