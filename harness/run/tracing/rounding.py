"""Which taps of a lifted program hold the rounding of a number that could not be lifted, and which numbers.

The program is evaluated once with sets in place of values: what a value is computed from decides what is in its
set.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jax.extend.source_info_util import summarize

from harness.run.tracing.evaluate import INLINE, Evaluator, Native, Watched
from harness.run.tracing.lift import meant, meant_all
from harness.run.tracing.versions import jaxprs_in_params
from harness.taps import kind_of


@dataclass(frozen=True)
class Unlifted:
    """A number, or a table of them, whose value before it was rounded is not known.

    Attributes:
        shown: as a report says it.
        dtype: what rounded it.
        place: the line that computes with it.
    """

    shown: str
    dtype: str
    place: str = ""

    @property
    def precision(self) -> str:
        """The precision whose rounding covers it: float16 has more digits than bfloat16."""
        return "float32" if self.dtype == "float32" else "bfloat16"

    def __str__(self) -> str:
        return f"{self.shown} at {self.place}" if self.place else self.shown


Sources = frozenset[Unlifted | str]  # numbers, and the taps that a value is computed from
EXACT: Sources = frozenset()


@dataclass(frozen=True)
class Rounding:
    """What was found about one program.

    Attributes:
        feeds: by tap, the numbers and the taps that it is computed from.
        recognised: numbers that were given their closed form: `0.35355338 as 8 ** -0.5`.
    """

    feeds: Mapping[str, Sources]
    recognised: tuple[str, ...]

    def precisions(self, replaced: Collection[str]) -> dict[str, str]:
        """By tap, the precision by whose rounding it is to be judged; nothing of taps that are exact.

        Args:
            replaced: the taps in whose place a golden goes on. It is exact.
        """
        held = {tap: {u.precision for u in self.numbers(tap, replaced)} for tap in self.feeds}
        return {tap: min(precisions) for tap, precisions in held.items() if precisions}  # bfloat16 before float32

    def numbers(self, tap: str, replaced: Collection[str]) -> frozenset[Unlifted]:
        """The numbers whose rounding a tap holds."""
        numbers: set[Unlifted] = set()
        seen: set[Unlifted | str] = set()
        waiting = [tap]
        while waiting:
            for source in self.feeds.get(waiting.pop(), EXACT) - seen:
                seen.add(source)
                if isinstance(source, Unlifted):
                    numbers.add(source)
                elif source not in replaced:
                    waiting.append(source)
        return frozenset(numbers)


def rounding(
    closed: ClosedJaxpr,
    watched: Watched,
    output: str = "logits",
    reading: tuple[ClosedJaxpr, Sequence[str]] | None = None,
) -> Rounding:
    """Follow every number of a program that cannot be lifted to the taps.

    Args:
        closed: the program, as it was traced.
        watched: for every output the tap that it is; the first, which is none, is `output`.
        reading: a second program, which makes taps of the last outputs of the first, and their names.
    """
    feeds: dict[str, Sources] = {}

    def on_tap(name: str, sources: Any) -> Any:
        feeds[name] = feeds.get(name, EXACT) | sources
        return frozenset({name})

    arithmetic = _Following()
    arguments = [EXACT] * len(closed.jaxpr.invars)
    outputs = Evaluator(on_tap, arithmetic)(closed.jaxpr, closed.consts, arguments, watched)
    feeds[output] = outputs[0]
    if reading is not None:
        read, names = reading
        given = outputs[len(outputs) - len(read.jaxpr.invars) :]
        values = Evaluator(on_tap, arithmetic)(read.jaxpr, read.consts, given)
        feeds |= dict(zip(names, values, strict=True))
    return Rounding(feeds, tuple(arithmetic.recognised))


def rounding_notes(roundings: Iterable[Rounding]) -> Iterator[str]:
    """What a report says: which numbers were recognised, which were not, and what is judged by their rounding."""
    recognised: dict[str, None] = {}
    unlifted: dict[Unlifted, set[str]] = {}
    for rounding in roundings:
        recognised |= dict.fromkeys(rounding.recognised)
        for tap in rounding.feeds:
            for number in rounding.numbers(tap, rounding.feeds):
                unlifted.setdefault(number, set()).add(kind_of(tap))
    if recognised:
        yield f"float64: read as {'; '.join(recognised)}"
    for number, kinds in unlifted.items():
        yield (
            f"float64: {number} cannot be lifted exactly: {', '.join(sorted(kinds))}, and where no golden goes on "
            f"what is computed from them, are judged by {number.precision}'s rounding"
        )


@dataclass
class _Following(Native):
    """Arithmetic for `Evaluator` in which a value is the set of what it holds the rounding of."""

    opens: frozenset[str] = frozenset(INLINE)
    recognised: dict[str, None] = field(default_factory=dict)

    def constant(self, value: Any) -> Any:
        return value if isinstance(value, frozenset) else of_constant(value)

    def literal(self, literal: Literal) -> Any:
        return self.constant(literal.val)

    def apply(self, equation: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
        place = summarize(equation.source_info)
        self._recognise(equation, place)
        inside: list[Sources] = [s for body in jaxprs_in_params(equation.params) for s in self._inside(body)]
        sources = _at(place, EXACT.union(*operands)).union(*inside)
        return [sources if _is_real(var.aval) else EXACT for var in equation.outvars]

    def row(self, stacked: Any, step: int) -> Any:
        return stacked

    def stack(self, rows: Sequence[Any]) -> Any:
        return EXACT.union(*rows)

    def _inside(self, body: Jaxpr | ClosedJaxpr) -> Iterator[Sources]:
        """What stands in nested code that is not opened."""
        jaxpr, constants = (body.jaxpr, body.consts) if isinstance(body, ClosedJaxpr) else (body, ())
        yield from map(of_constant, constants)
        for equation in jaxpr.eqns:
            place = summarize(equation.source_info)
            self._recognise(equation, place)
            literals = (atom for atom in equation.invars if isinstance(atom, Literal))
            yield from (_at(place, self.literal(literal)) for literal in literals)
            for nested in jaxprs_in_params(equation.params):
                yield from self._inside(nested)

    def _recognise(self, equation: JaxprEqn, place: str) -> None:
        for atom in equation.invars:
            if isinstance(atom, Literal) and _is_narrow(atom.val) and np.ndim(atom.val) == 0:
                number = meant(np.asarray(atom.val))
                if number is not None and number.form:
                    self.recognised[f"{np.asarray(atom.val)!s} as {number.form} at {place}"] = None


def of_constant(value: Any) -> Sources:
    """What a number or a table in a program holds the rounding of."""
    if isinstance(value, Tracer) or not _is_narrow(value):
        return EXACT
    numbers = np.asarray(value)
    if numbers.ndim == 0:
        return EXACT if meant(numbers) is not None else frozenset({Unlifted(str(numbers), numbers.dtype.name)})
    if meant_all(numbers) is not None:
        return EXACT
    shape = " x ".join(map(str, numbers.shape))
    return frozenset({Unlifted(f"a {numbers.dtype.name} table of {shape} numbers", numbers.dtype.name)})


def _at(place: str, sources: Sources) -> Sources:
    return frozenset(replace(u, place=place) if isinstance(u, Unlifted) and not u.place else u for u in sources)


def _is_narrow(value: Any) -> bool:
    return str(getattr(value, "dtype", "")) in ("float32", "float16", "bfloat16")


def _is_real(aval: Any) -> bool:
    """Whether a value can hold a rounding: an index or a comparison does not."""
    return bool(jnp.issubdtype(getattr(aval, "dtype", np.dtype(bool)), jnp.inexact))
