"""Whatever comes out of a port is the port's: an exception, an exit, a Ctrl-C that nobody pressed.

`blaming_the_port` stands around every call into a port. A signal that arrives meanwhile is the user's, and is told
apart by the very exception that its handler raised: it goes through, also where the port caught it.
"""

from __future__ import annotations

import functools
import os
import signal
import sysconfig
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from harness.errors import HarnessError, PortError

# Frames of these are never the line that a port's author looks for.
LIBRARIES = (
    *("jax", "jaxlib", "flax", "numpy", "ml_dtypes", "einops", "jaxtyping", "safetensors", "equinox", "haliax"),
    *("keras", "optree", "haiku", "chex", "beartype", "typeguard", "wadler_lindig", "absl", "orbax", "optax"),
)
HARNESS = str(Path(__file__).parents[1]) + os.sep
GENERATED = ("<frozen ", "<string>", "<@beartype")  # no file that could be looked into
OURS = ("/run/port.py", "/run/loading.py")  # which call a port
QUOTED = "Traceback (most recent call last)"
SIGNALS = (signal.SIGINT, signal.SIGTERM)
TRACEBACK_HINT = "run the same command with GOLDENS_TRACEBACK=1 for the whole traceback"
EXIT_HINT = (
    "a port returns, and its caller decides when to end; what a script does when it is run belongs under "
    '`if __name__ == "__main__":`'
)


class blaming_the_port:  # noqa: N801 - reads as a sentence at its call sites
    """Turn whatever the port raises into a PortError that says where; the traceback stays attached.

    A refusal of our own that the port has wrapped in another exception is shown as it was.

    Args:
        where: what of the port was called.
        problem: what is said before the exception.
        hint: what to do about it.
    """

    def __init__(self, where: str, problem: str = "the port raised", hint: str = TRACEBACK_HINT) -> None:
        self._where, self._problem, self._hint = where, problem, hint
        self._interrupt: BaseException | None = None
        self._handlers: dict[int, Any] = {}
        self._exit = os._exit

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._noting(handler))
        self._exit, os._exit = os._exit, _raising(os._exit)  # type: ignore[assignment]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os._exit = self._exit
        for number, handler in self._handlers.items():
            # A handler that has decided to hear no second signal is left its way.
            if self._interrupt is None or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, handler)
        if self._interrupt is not None and error is not self._interrupt:
            raise self._interrupt from None
        if error is None or error is self._interrupt or isinstance(error, HarnessError):
            return
        ours = next((inner for inner in _chain(error) if isinstance(inner, HarnessError)), None)
        if ours is not None:
            raise ours from None
        raised, line = origin(error)
        problem = f"{self._problem} {described(raised)}"
        hint = EXIT_HINT if isinstance(raised, SystemExit) else self._hint
        raise PortError(problem, self._where if line is None else f"{self._where} ({line})", hint=hint) from error

    def _noting(self, handler: Callable[[int, FrameType | None], Any]) -> Callable[[int, FrameType | None], None]:
        def handle(number: int, frame: FrameType | None) -> None:
            try:
                handler(number, frame)
            except BaseException as error:
                self._interrupt = error
                raise

        return handle


def described(error: BaseException) -> str:
    """An exception in one line: its type and the first line of what it says, if it can say anything.

    Of a traceback that it quotes, as what a callback raised comes out of a program, it is the line below.
    """
    try:
        said = str(error).strip().splitlines()
    except Exception as another:
        said = [f"(its message cannot be shown: {type(another).__name__})"]
    quoted = max((n for n, line in enumerate(said) if QUOTED in line), default=None)
    below = () if quoted is None else said[quoted + 1 :]
    line = next((line for line in below if line.strip() and not line.startswith(" ")), said[0] if said else "")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


@functools.lru_cache(maxsize=4096)
def is_library(file: str) -> bool:
    """Whether a file is a library's, the harness's, or none at all: not the port's own code."""
    return file.startswith((*GENERATED, HARNESS, *_library_folders()))


def origin(error: BaseException) -> tuple[BaseException, str | None]:
    """What the port raised, and where: of what a library has caught and wrapped, what is in it.

    Returns:
        The exception, and `file:line` of its innermost frame that is neither a library's nor the harness's; of the
        built-in port, which is the harness's, the innermost frame of the harness. None where there is none.
    """
    libraries = _library_folders()
    for raised in reversed(list(_wrapped(error, libraries))):
        foreign = [frame for frame in _frames(raised.__traceback__) if not frame[0].startswith(libraries)]
        own = [frame for frame in foreign if not frame[0].startswith(HARNESS)]
        if own:
            return raised, f"{own[-1][0]}:{own[-1][1]}"
    frames = [frame for frame in _frames(error.__traceback__) if not frame[0].startswith(libraries)]
    inside = [frame for frame in frames if frame[0] != __file__ and not frame[0].endswith(OURS)]
    return error, f"{inside[-1][0]}:{inside[-1][1]}" if inside else None


def _wrapped(error: BaseException, libraries: tuple[str, ...]) -> Iterator[BaseException]:
    """An exception, and what libraries or the harness have caught and raised it from, outermost first.

    What the port's own code has caught, it has made something else of on purpose. Keras raises a copy of what it
    has caught, from the same line.
    """
    foreign = (*libraries, HARNESS)
    raised: BaseException | None = error
    seen: set[int] = set()
    while raised is not None and id(raised) not in seen:
        seen.add(id(raised))
        yield raised
        inner = [x for x in (raised.__cause__, raised.__context__) if x is not None]
        frames = list(_frames(raised.__traceback__))
        if frames and not frames[-1][0].startswith(foreign):  # raised by the port: it may still be a copy
            inner = [x for x in inner if list(_frames(x.__traceback__))[-1:] == frames[-1:]]
        # The traceback of what has been caught begins where that was.
        raised = next((x for x in inner if next(_frames(x.__traceback__), ("", 0))[0].startswith(foreign)), None)


def _frames(traceback: TracebackType | None) -> Iterator[tuple[str, int]]:
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if not file.startswith(GENERATED):
            yield file, traceback.tb_lineno
        traceback = traceback.tb_next


@functools.cache
def _library_folders() -> tuple[str, ...]:
    """The folders of libraries; of the standard library its files alone, for site-packages lies below it."""
    packages = [find_spec(name) for name in LIBRARIES]
    places = [place for spec in packages if spec for place in spec.submodule_search_locations or ()]
    standard = Path(sysconfig.get_path("stdlib"))
    files = [str(path) for path in standard.iterdir() if path.suffix == ".py"]
    folders = [str(path) + os.sep for path in standard.iterdir() if path.is_dir() and path.name != "site-packages"]
    return (*(place + os.sep for place in places), *files, *folders)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """What an exception was raised from, while handling what, and of several what is in it; nearest first."""
    seen, waiting = {id(error)}, [error]
    while waiting:
        raised = waiting.pop(0)
        if raised is not error:
            yield raised
        within = raised.exceptions if isinstance(raised, BaseExceptionGroup) else ()
        for inner in (raised.__cause__, raised.__context__, *within):
            if inner is not None and id(inner) not in seen:
                seen.add(id(inner))
                waiting.append(inner)


def _raising(leave: Callable[[int], Any]) -> Callable[[int], None]:
    """`os._exit` as an exception; in a process that the port has forked it ends that."""
    process = os.getpid()

    def exit_(status: int) -> None:
        if os.getpid() != process:
            leave(status)
        raise SystemExit(status)

    return exit_


class CannotLift(PortError):  # noqa: N818 - an outcome: a check falls back to float32
    """An operation stays narrow whatever is done around it, or is none in float64.

    Args:
        operation: which, and where.
        error: why it is none in float64.
    """

    def __init__(self, operation: str, error: Exception | None = None) -> None:
        self.operation = operation
        super().__init__(
            "an operation of the port cannot be lifted to float64",
            where=operation,
            expected="operations on numbers, whose dtype is a matter of choice",
            found=error and f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            hint="check this port in float32: --precision float32",
        )
