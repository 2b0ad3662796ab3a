"""The program of a model on one case, with every float value marked that a call is given or returns.

Of functions those may hold taps that are the model's own modules', and a few of JAX that these call.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, JaxprEqn, jaxpr_as_fun

from harness.errors import PortError
from harness.run.adapters import EquinoxPort, FunctionPort, KerasPort, LinenPort, NnxPort
from harness.run.adapters.base import AdaptedPort
from harness.run.adapters.calls import Site, watching
from harness.run.adapters.replaced import all_replaced, functions_of
from harness.run.adapters.running import traced_for
from harness.run.adapters.table import at_paths
from harness.run.contained import blaming_the_port, origin
from harness.run.tracing.answers import MOST, UNANSWERED, Question, answering, untraceable, without_end
from harness.run.tracing.evaluate import ITERATION
from harness.run.tracing.numbering import PLAIN, Calls, _Walk
from harness.run.tracing.origins import is_float
from harness.run.tracing.program import marks_in

Shapes = Mapping[tuple[str, str], tuple[int, ...]]  # by path and field
KINDS = (NnxPort, LinenPort, EquinoxPort, KerasPort, FunctionPort)
# Not the model's own: their functions are its parts, and not its operations.
FRAMEWORKS = frozenset({
    "builtins", "einops", "equinox", "flax", "functools", "haliax", "harness", "jax", "jaxlib", "jaxtyping",
    "keras", "math", "numpy", "typing",
})  # fmt: skip
# Of these the model has taps: attention's probabilities, activations, products.
KNOWN = {
    "jax.nn": ("softmax", "silu", "swish", "gelu", "relu", "dot_product_attention"),
    "flax.linen": ("softmax", "silu", "swish", "gelu", "relu"),
    "flax.nnx": ("softmax", "silu", "swish", "gelu", "relu"),
    "jax.numpy": ("einsum", "matmul", "dot", "where"),
    "keras.ops": ("softmax", "einsum", "matmul"),
}
# These are called in packages that the model's own modules use, and not only in these.
ANYWHERE = {"jax.nn": ("softmax",), "jax._src.nn.functions": ("softmax",)}  # the second in dot_product_attention


@dataclass(frozen=True)
class Mark:
    """A place in the finished program: one call of a site, or of a scan's body the call in every iteration.

    Attributes:
        loop: which scan it is in; 0 is none.
        is_other: whether the value there has another dtype than the check.
    """

    index: int
    site: Site
    loop: int = PLAIN
    is_other: bool = False


class Watched:
    """A port's model, traced once with all that it calls marked.

    Args:
        arguments: input ids, positions and mask of the case.
        cache: of a port that has one; None for a whole prompt.

    Attributes:
        marks: all places, in the order of the program.
        methods: the paths of those that are methods, and no sub-modules.
        closed: the program, in which every mark has the number of its place.
        names: by output, its key where a function returns it by key.

    Raises:
        PortError: the port is no adapted one, or its model cannot be traced.
    """

    def __init__(self, port: Any, arguments: Sequence[Array], cache: Any = None) -> None:
        if not isinstance(port, AdaptedPort):
            problem = "this port is no adapter of somebody's model: it has no table that could be proposed"
            hint = "see harness/run/adapters; a port that calls tap() itself needs no table"
            raise PortError(problem, type(port).__name__, ", ".join(kind.__name__ for kind in KINDS), hint=hint)
        self.port = port
        self.arguments = (*arguments, cache) if port.has_cache else tuple(arguments)
        self.marks: list[Mark] = []
        held = dict(port.sub_modules())
        self.methods = frozenset(port.paths()) - held.keys()
        with port.context():
            self.closed, self.names = self._traced(map(type, (getattr(port, "model", None), *held.values())))

    @property
    def shapes(self) -> Shapes:
        """The shape of what each call is given and returns."""
        named = (
            (self.marks[index_of(mark)].site, mark.outvars[0].aval.shape) for mark in marks_in(self.closed.jaxpr)
        )
        return {(site.path, site.field): shape for site, shape in named}

    def _traced(self, classes: Iterable[type]) -> tuple[ClosedJaxpr, list[str | None]]:
        port = self.port
        watched = port.marking(at_paths(port.paths()))
        functions = functions_of(at_paths(function_paths(classes, type(port).run)))

        def model(*given: Any) -> Any:
            with ExitStack() as stack:
                stack.enter_context(all_replaced(functions))
                stack.enter_context(traced_for(("watched", id(self))))
                stack.enter_context(watching())
                returned, values = watched._model(*given)
            logits = returned[0] if port.has_cache else returned
            return logits, {key: value for key, value in values.items() if is_float(value)}

        closed, shape = _program(model, self.arguments)
        names = [*[None] * len(jax.tree.leaves(shape[0])), *sorted(shape[1])]
        return closed.replace(jaxpr=_Walk(self._numbered, Calls())(closed.jaxpr)), names

    def _numbered(self, site: str, loop: int) -> str:
        self.marks.append(Mark(len(self.marks), Site.read(site), loop))
        return f"{len(self.marks) - 1} {ITERATION}" if loop else str(len(self.marks) - 1)


def index_of(mark: JaxprEqn) -> int:
    """Which of a program's places a mark is."""
    return int(mark.params["name"].split()[0])


def through_cache(port: AdaptedPort, arguments: Sequence[Array], dtype: Any) -> Shapes:
    """What is returned where when the prompt goes through a cache; nothing where it cannot: a check says why."""
    if not port.has_cache:
        return {}
    try:
        with blaming_the_port("init_cache"), port.context():
            cache = port.init_cache(*arguments[0].shape, dtype)  # type: ignore[attr-defined]
        return Watched(port, arguments, cache).shapes
    except PortError:
        return {}


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


def function_paths(classes: Iterable[type], function: Callable[..., Any]) -> tuple[str, ...]:
    """The functions to watch, `package.module:name`, each where it is looked up.

    Args:
        classes: of the model's sub-modules.
        function: the port's `run`.
    """
    names = {kind.__module__ for cls in classes for kind in cls.__mro__} | {function.__module__}
    modules = [sys.modules[name] for name in sorted(names) if is_own(name) and name in sys.modules]
    around = {id(module): module for module in modules}
    for module in modules:  # `utils.shard(x)`: a function of another module of the same package
        for held in vars(module).values():
            if isinstance(held, ModuleType) and _package(held.__name__) == _package(module.__name__):
                around.setdefault(id(held), held)
    own = [f"{module.__name__}:{name}" for module in around.values() for name in _functions(module)]
    called = {name for module in around.values() for name in _names(module)}
    known = [
        f"{module}:{name}"
        for module, names in KNOWN.items()
        for name in names
        if name in called and _has(module, name)
    ]
    inside = [f"{module}:{name}" for module, names in ANYWHERE.items() for name in names if _has(module, name)]
    return (*dict.fromkeys([*own, *known, *inside]),)


def is_own(module: str) -> bool:
    """Whether a module may be the model's own."""
    return _package(module) not in FRAMEWORKS


def _package(name: str) -> str:
    return name.partition(".")[0]


def _functions(module: ModuleType) -> Iterator[str]:
    """A module's functions, and those that it has imported from its package; jitted ones too."""
    for name, held in vars(module).items():
        original = inspect.unwrap(held) if callable(held) and not inspect.isclass(held) else None
        if inspect.isfunction(original) and name.isidentifier() and is_own(original.__module__ or ""):
            yield name


def _names(module: ModuleType) -> Iterator[str]:
    """All names that a module's own code looks up."""
    for held in list(vars(module).values()):
        if getattr(held, "__module__", None) != module.__name__:
            continue
        inside = vars(held).values() if inspect.isclass(held) else [held]
        for member in inside:
            original = inspect.unwrap(member) if callable(member) else None
            if inspect.isfunction(original):
                yield from _names_in(original.__code__)


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _has(module: str, name: str) -> bool:
    return hasattr(sys.modules.get(module), name)
