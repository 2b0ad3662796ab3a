"""A model on one case, with every float value of every call shown to a handler, in the order of the calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, Var, jaxpr_as_fun

from harness.errors import PortError
from harness.run.adapters import EquinoxPort, FunctionPort, KerasPort, LinenPort, NnxPort
from harness.run.adapters.base import AdaptedPort
from harness.run.adapters.replaced import all_replaced, functions_of
from harness.run.adapters.running import traced_for
from harness.run.adapters.table import at_paths
from harness.run.adapters.watching import Site, watching
from harness.run.contained import blaming_the_port, origin
from harness.run.proposing.functions import function_paths
from harness.run.tracing.answers import MOST, UNANSWERED, Question, answering, untraceable, without_end
from harness.run.tracing.evaluate import INLINE, ITERATION, Evaluator
from harness.run.tracing.numbering import PLAIN, Calls, _Walk

KINDS = (NnxPort, LinenPort, EquinoxPort, KerasPort, FunctionPort)


@dataclass(frozen=True)
class Mark:
    """A place in the finished program: one call of a site, or of a scan's body the call in every iteration.

    Attributes:
        loop: which scan it is in; 0 is none.
        is_key: whether it is a key of what a function returns, and not a call.
        is_other: whether the value there has another dtype than the check.
    """

    index: int
    site: Site
    loop: int = PLAIN
    is_key: bool = False
    is_other: bool = False


OnValue = Callable[[Mark, int | None, Array], Array]  # the iteration of the scan; what goes on


class Watched:
    """A port's model, traced once with all that it calls marked.

    Args:
        arguments: input ids, positions and mask of the case.

    Attributes:
        marks: all places, in the order of the program.
        methods: the paths of those that are methods, and no sub-modules.
        functions: the paths of those that are watched.
        closed: the program, in which every mark has the number of its place.
        names: the same by output, where it is one that the function returns by key.

    Raises:
        PortError: the port is no adapted one, or its model cannot be traced.
    """

    def __init__(self, port: Any, arguments: Sequence[Array]) -> None:
        if not isinstance(port, AdaptedPort):
            problem = "this port is no adapter of somebody's model: it has no table that could be proposed"
            hint = "see harness/run/adapters; a port that calls tap() itself needs no table"
            raise PortError(problem, type(port).__name__, ", ".join(kind.__name__ for kind in KINDS), hint=hint)
        self.port, self.arguments = port, tuple(arguments)
        self.marks: list[Mark] = []
        held = list(_held(port))
        self.methods = frozenset(path for path, _, is_method in held if is_method)
        self.functions = function_paths({type(node) for _, node, _ in held}, type(port).run)
        with port.context():
            self.closed, shape = self._traced()
        self.names = self._keys(shape)

    def __call__(self, on_value: OnValue) -> Array:
        """Run it, and return the logits."""
        seen: set[tuple[int, int | None]] = set()

        def on_tap(name: str, value: Array) -> Array:
            index, _, step = name.partition(" ")
            key = int(index), int(step) if step else None
            if key in seen:  # a scan inside a scan: no row could say which
                return value
            seen.add(key)
            return on_value(self.marks[key[0]], key[1], value)

        evaluate = Evaluator(on_tap, self.port._program.arithmetic())
        leaves = jax.tree.leaves(self.arguments)
        with self.port.context():
            return evaluate(self.closed.jaxpr, self.closed.consts, leaves, self.names)[0]

    def _traced(self) -> tuple[ClosedJaxpr, Any]:
        port = self.port
        watched = port.marking(at_paths(port.paths()))
        functions = functions_of(at_paths(self.functions))
        cache = (None,) if port.has_cache else ()

        def model(*given: Any) -> Any:
            with ExitStack() as stack:
                stack.enter_context(all_replaced(functions))
                stack.enter_context(traced_for(("watched", id(self))))
                stack.enter_context(watching())
                returned, found = watched._model(*given, *cache)
            return (returned[0] if cache else returned), {name: x for name, x in found.items() if _is_float(x)}

        closed, shape = _program(model, self.arguments)
        return closed.replace(jaxpr=_Walk(self._numbered, Calls())(closed.jaxpr)), shape

    def _numbered(self, site: str, loop: int) -> str:
        self.marks.append(Mark(len(self.marks), Site.read(site), loop))
        return f"{len(self.marks) - 1} {ITERATION}" if loop else str(len(self.marks) - 1)

    def _keys(self, shape: Any) -> list[str | None]:
        """What is watched of the outputs: a function's intermediates, by key."""
        outputs = self.closed.jaxpr.outvars
        names: list[str | None] = [None] * len(jax.tree.leaves(shape[0]))
        for key, var in zip(sorted(shape[1]), outputs[len(names) :], strict=True):
            stacked = isinstance(var, Var) and _is_stacked(self.closed.jaxpr, var)
            self.marks.append(Mark(len(self.marks), Site(key, "", ()), int(stacked), is_key=True))
            names.append(f"{len(self.marks) - 1} {ITERATION}" if stacked else str(len(self.marks) - 1))
        return names


def _program(model: Callable[..., Any], arguments: Sequence[Any]) -> tuple[ClosedJaxpr, Any]:
    """A model's program, and the shapes of what it returns.

    What it looks at it is told from its own values: inputs, mostly, and what is made of these alone.

    Raises:
        PortError: it raises, looks at a value inside jit or scan, or at values without end.
    """
    answers: list[np.ndarray] = []
    place: str | None = None
    while len(answers) <= MOST:
        questions: list[Question] = []

        def asked(*given: Any, questions: list[Question] = questions) -> Any:
            try:
                with answering(given, answers):
                    return model(*given)
            except Question as question:
                questions.append(question)
                return question.value

        try:
            with blaming_the_port("run"):
                closed, shape = jax.make_jaxpr(asked, return_shape=True)(*arguments)
        except PortError as error:
            if isinstance(error.__cause__, UNANSWERED):
                raise untraceable(error.__cause__) from error
            raise
        if not questions:
            return closed, shape
        place = place or origin(questions[0])[1]
        answers.append(np.asarray(jaxpr_as_fun(closed)(*jax.tree.leaves(arguments))[0]))
    raise without_end(place)


def _held(port: AdaptedPort) -> Iterator[tuple[str, Any, bool]]:
    """What lies at every path of a model, and at every path that leads there; and whether it is a method."""
    model: Any = getattr(port, "model", None)
    yield "", model, False
    for path in port.paths():
        node, where = model, list[str]()
        for part in path.split("."):
            is_method = callable(getattr(type(node), part, None)) and part not in getattr(node, "__dict__", {})
            node, where = _child(node, part), [*where, part]
            yield ".".join(where), node, is_method


def _child(node: Any, part: str) -> Any:
    if hasattr(node, part):
        return getattr(node, part)
    keys = (part, int(part)) if part.isdigit() else (part,)
    for key in keys:
        with suppress(KeyError, IndexError, TypeError):
            return node[key]
    return None


def _is_float(value: Any) -> bool:
    return hasattr(value, "dtype") and bool(jax.numpy.issubdtype(value.dtype, jax.numpy.floating))


def _is_stacked(jaxpr: Jaxpr, var: Var) -> bool:
    """Whether an output is what a scan stacks, one row an iteration."""
    for equation in jaxpr.eqns:
        if var not in equation.outvars:
            continue
        slot, name = equation.outvars.index(var), equation.primitive.name
        if name == "scan":
            return bool(slot >= equation.params["num_carry"])
        if name in INLINE:
            inner = equation.params[INLINE[name]]
            inner = inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
            return isinstance(inner.outvars[slot], Var) and _is_stacked(inner, inner.outvars[slot])
    return False
