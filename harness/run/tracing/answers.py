"""Models that look at values while they are traced (`np.array(positions)`, `if mask.all():`): they are answered.

A value does not exist yet while JAX traces. But the program up to there does: it is run, and the model is traced
once more with the answer, up to the next question. What was answered is constant in the program, which is good for
inputs with the same answers alone.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import Jaxpr

from harness.errors import PortError, first_line
from harness.run.contained import origin
from harness.run.port import Call
from harness.run.tapping import Around, Session, TapFunction, no_tap, whole

MOST = 100  # questions in one forward pass
# What JAX raises where Python asks for a value that exists only while it traces.
UNANSWERED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
ASKED_AS: Mapping[str, Callable[..., Any]] = {
    "__array__": lambda value, dtype=None, copy=None: np.array(value, dtype),
    "__bool__": bool,
    "__int__": int,
    "__index__": lambda value: operator.index(value.item()),
    "__float__": float,
    "__complex__": complex,
    "item": lambda value, *at: value.item(*at),
    "tolist": lambda value: value.tolist(),
    "tobytes": lambda value, order="C": value.tobytes(order),
    "to_concrete_value": lambda value: value,
}
# JAX asks whether a value is known all the time, and here because it has to be: `jnp.arange(length)`, `x[mask]`.
JAX = str(Path(jax.__file__).parent)
KNOWN, HAS_TO_BE_KNOWN = "to_concrete_value", frozenset({"concrete_or_error", "expand_bool_indices"})


class Question(BaseException):
    """A value that a model asks for, and for which there is no answer yet. No model catches it by mistake."""

    def __init__(self, value: Tracer) -> None:
        self.value = value


class Asks(Exception):  # noqa: N818 - a question, for whoever can answer
    """The model looks at a value that is not known, at a line of its own."""

    def __init__(self, place: str | None) -> None:
        self.place = place or "a place that is not known"
        super().__init__(self.place)


def untraceable(error: BaseException) -> PortError:
    """What to say where a model asks for a value of nested code, which has many, or in a way that nobody knows."""
    problem = "the model cannot be traced: it looks at a value where it cannot be answered"
    expected = "np.asarray(x), bool(x), int(x) and the like, outside of jit, scan and vmap"
    hint = "compute with jax.numpy there; inside jit, scan and vmap it fails without the harness too"
    found = f"{type(error).__name__}: {first_line(error)}"
    return PortError(problem, origin(error)[1], expected, found, hint=hint)


def without_end(place: str | None) -> PortError:
    """What to say of a model that asks, and asks again, first at some line."""
    expected, hint = f"at most {MOST} in one forward pass", "compute with jax.numpy there, or look at fewer values"
    return PortError("the model looks at values without end", place, expected, "more", hint=hint)


@contextmanager
def answering(arguments: Sequence[Any], known: Sequence[np.ndarray]) -> Iterator[None]:
    """While a model is traced its questions are answered, in their order; then a `Question` is raised.

    Args:
        arguments: of the model, as they are traced. What is traced inside jit or scan is not answered.
    """
    outermost = next(
        (getattr(x, "_trace", None) for x in jax.tree.leaves(arguments) if isinstance(x, Tracer)), None
    )
    answered: dict[int, tuple[Tracer, np.ndarray]] = {}  # the tracer is kept, and with it its id

    def answer(value: Tracer) -> np.ndarray:
        if id(value) not in answered:
            if len(answered) == len(known):
                raise Question(value)
            answered[id(value)] = value, known[len(answered)]
        return answered[id(value)][1].astype(value.dtype)

    def asking(name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: Tracer, *args: Any, **kwargs: Any) -> Any:
            inner = outermost is None or getattr(self, "_trace", None) is not outermost
            if inner or (id(self) not in answered and _jax_wonders(name)):
                return own(self, *args, **kwargs)
            return ASKED_AS[name](answer(self), *args, **kwargs)

        return method

    own = {name: vars(Tracer).get(name) for name in ASKED_AS}
    for name in ASKED_AS:
        setattr(Tracer, name, asking(name, own[name] or _as_numpy))
    try:
        yield
    finally:
        for name, method in own.items():
            if method is None:
                delattr(Tracer, name)
            else:
                setattr(Tracer, name, method)


def _jax_wonders(name: str) -> bool:
    """Whether JAX itself asks, and has another way where the value is not known (`fori_loop` with its bounds)."""
    asks = sys._getframe(2)
    if not asks.f_code.co_filename.startswith(JAX):
        return False
    helpers = [asks, asks.f_back, asks.f_back and asks.f_back.f_back]
    known = (frame is not None and frame.f_code.co_name in HAS_TO_BE_KNOWN for frame in helpers)
    return name != KNOWN or not any(known)


def _as_numpy(value: Tracer, *args: Any) -> Any:
    """`item` of a value that is not answered: JAX refuses it."""
    return np.asarray(value).item(*args)


class Unseen(Around):
    """A session to whom nothing is handed over: a program is run up to a question."""

    def __call__(self, name: str, value: jax.Array) -> jax.Array:
        return value

    def judge_by(self, rounding: Mapping[str, str]) -> None:
        pass

    def absorb(self, stage: str, recorded: Mapping[str, Any]) -> None:
        pass


class Runs(Protocol):
    """A program: called with the model's arguments and a tap."""

    def __call__(self, *arguments: Any) -> Any: ...

    def ran(self, calls: Sequence[Call]) -> list[Jaxpr]: ...

    @property
    def notes(self) -> tuple[str, ...]: ...


class Answered:
    """Runs of a model by what it was answered.

    In replay a question is answered from golden values, as far as these are marked before it is asked.

    Args:
        first: the program in which nothing is asked.
        given: the program for some answers.
        next_question: the program that computes what is asked after these.
    """

    def __init__(
        self,
        first: Runs,
        given: Callable[[Sequence[np.ndarray]], Runs],
        next_question: Callable[[Sequence[np.ndarray]], Callable[..., Any]],
    ) -> None:
        self._given, self._next_question = given, next_question
        self._programs: dict[Any, Runs] = {(): first}
        self._questions: dict[Any, Callable[..., Any]] = {}
        self._asking: set[Any] = set()
        self.place: str | None = None

    def __call__(self, *arguments: Any, tap: TapFunction) -> Any:
        """What the model returns.

        Raises:
            PortError: it asks without end.
        """
        answers: tuple[np.ndarray, ...] = ()
        shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(arguments))
        while len(answers) <= MOST:
            key = tuple((value.dtype.str, value.shape, value.tobytes()) for value in answers)
            if (shapes, key) not in self._asking:
                try:
                    if key not in self._programs:
                        self._programs[key] = self._given(answers)
                    return self._programs[key](*arguments, tap)
                except Asks as asks:
                    self.place = self.place or asks.place
                    self._asking.add((shapes, key))
            if key not in self._questions:
                self._questions[key] = self._next_question(answers)
            # Inputs are known even where the port itself is traced, to see its precision settings.
            with jax.ensure_compile_time_eval():
                seen = Unseen(tap) if isinstance(tap, Session) else no_tap
                answers = (*answers, np.asarray(whole(self._questions[key](*arguments, seen))))
        raise without_end(self.place)

    def ran(self, calls: Sequence[Call]) -> list[Jaxpr]:
        """The programs that were run for sessions on such calls, whatever was answered."""
        return [made for program in self._programs.values() for made in program.ran(calls)]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a report has to say about how it was run."""
        notes = dict.fromkeys(note for program in self._programs.values() for note in program.notes)
        if self.place is not None:
            notes[
                f"the model looks at values while it runs, first at {self.place}: it is traced and compiled again "
                "wherever they differ, which is slow"
            ] = None
        return tuple(notes)
