"""A trial in a child of this process, which has all imports behind it and is not touched by what happens there."""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from tests.campaign.trials import CHARACTERS, KIBIBYTES, SECONDS, BrokenClaimError

BROKEN, UNEXPECTED = 70, 71


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        code: its exit code; the signal that ended it, negative; None where it was still running after its time.
        grown: by how many KiB its memory grew at most.
    """

    code: int | None
    out: str
    said: str
    seconds: float
    grown: int

    def __str__(self) -> str:
        end = f"exit {self.code}" if self.code is not None else f"no end within {self.seconds:.0f} s"
        return f"{end}: {self.out[-300:]}{self.said[-1500:]}"


def forked(action: Callable[[], int], seconds: float = SECONDS) -> Ended:
    """Run an action in a child process, its output apart; one that takes too long is killed.

    Args:
        action: returns the exit code. BrokenClaimError is BROKEN, any other exception UNEXPECTED.
    """
    out, said, born = os.memfd_create("out"), os.memfd_create("said"), os.memfd_create("born")
    started = time.monotonic()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads that a fork leaves behind: the child starts its own
        child = os.fork()
    if child == 0:
        os.write(born, str(_resident()).encode())  # there: a child has not the files that its parent has mapped
        _run(action, out, said)
    late = True
    try:
        late = not _ends(child, seconds)
    finally:  # also where the trial as a whole has taken too long
        if late:
            os.kill(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
    code = None if late else os.waitstatus_to_exitcode(status)
    at_first = _read(born)
    grown = usage.ru_maxrss - int(at_first) if at_first else 0  # killed before its first word
    return Ended(code, _read(out), _read(said), time.monotonic() - started, grown)


def imported(*modules: str) -> None:
    """Import once here, and not in every child, what commands import when they need it."""
    for module in modules:
        importlib.import_module(module)


def goldens(*args: object) -> int:
    """The command `goldens` with these arguments, as if in a fresh process; its exit code."""
    from harness.cli import cli

    try:
        code = cli.main([str(one) for one in args], prog_name="goldens", standalone_mode=True)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    return int(code or 0)


def held(ended: Ended, allowed: tuple[int, ...] = (0, 1, 2), size: int = 0) -> Ended:
    """What is claimed of every command, whatever it was given.

    Args:
        size: of the file that was read, in bytes.

    Raises:
        BrokenClaimError: another exit code, a traceback, a message too long, or memory without bound.
    """
    if ended.code not in allowed:
        raise BrokenClaimError(str(ended))
    for text in (ended.out, ended.said):
        if "Traceback (most recent" in text or "this is a bug in goldens" in text:
            raise BrokenClaimError(f"a traceback: {ended}")
    if len(ended.said) > CHARACTERS:
        raise BrokenClaimError(f"{len(ended.said):,} characters: {ended.said[:500]}")
    if ended.grown > KIBIBYTES + 2 * size // 1024:
        raise BrokenClaimError(f"memory grew by {ended.grown:,} KiB")
    return ended


def _run(action: Callable[[], int], out: int, said: int) -> None:
    """The life of the child."""
    code = UNEXPECTED
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(said, 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        signal.alarm(0)
        sys.stdout, sys.stderr = (open(fd, "w", buffering=1, errors="replace") for fd in (1, 2))  # noqa: SIM115, PTH123
        code = action()
    except BrokenClaimError as broken:
        print(broken, file=sys.stderr)  # noqa: T201
        code = BROKEN
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _ends(child: int, seconds: float) -> bool:
    handle = os.pidfd_open(child)
    try:
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


def _read(handle: int) -> str:
    os.lseek(handle, 0, os.SEEK_SET)
    with os.fdopen(handle, "r", errors="replace") as file:
        return file.read()


def _resident() -> int:
    """What this process has in memory now, in KiB."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
