"""The server of `tests.zygote`: it has imported jax and the harness, and forks what it is asked for."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import types
from pathlib import Path

import jax

from tests import zygote
from tests.compiled import OWN, share_context
from tests.zygote import PATH, PLATFORMS, SIZE, UNBUFFERED, Popen, Task, flags_of

IMPORTED = (
    "flax.nnx",
    "harness.cli.check_command",
    "harness.cli.console",
    "harness.cli.diff_command",
    "harness.cli.reading_commands",
    "harness.embedded",
    "harness.report.html",
    "harness.report.junit",
    "harness.report.markdown",
    "harness.report.pages.check",
    "harness.report.pages.check_details",
    "harness.report.pages.diff",
    "harness.report.pages.golden",
    "harness.report.pages.heatmap",
    "harness.report.terminal",
    "harness.report.views",
    "harness.run.adapters",
    "harness.run.check",
    "harness.run.decoder",
    "harness.run.revision",
    "harness.run.sides",
    "harness.run.tracing",
    "harness.store.zarr3",
    "jax.numpy",
    "rich.progress",
    "scipy.special",
)


def _serve(asked: socket.socket, life: socket.socket) -> tuple[Task, list[int]]:
    """Fork for every task that comes, and tell how each process ends; returns in those that were forked.

    Args:
        life: ends when nobody is there any more.
    """
    running: dict[int, tuple[int, socket.socket]] = {}
    selector = selectors.DefaultSelector()
    selector.register(asked, selectors.EVENT_READ)
    selector.register(life, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is life:
                for pid, _ in running.values():
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            if key.fileobj is not asked:
                selector.unregister(key.fileobj)
                pid, answers = running.pop(key.fd)
                os.close(key.fd)
                with answers:
                    _tell(answers, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                continue
            content, handles, _, _ = socket.recv_fds(asked, SIZE, 4)
            answers = socket.socket(fileno=handles.pop())
            pid = os.fork()
            if pid == 0:
                task = Task(**json.loads(content))
                if task.session:
                    os.setsid()
                _tell(answers, os.getpid())
                selector.close()
                for own in (asked, life, answers, *(other for _, other in running.values())):
                    own.close()  # all objects that would close a descriptor when it is another's
                return task, handles
            for handle in handles:
                os.close(handle)
            handle = os.pidfd_open(pid)
            running[handle] = pid, answers
            selector.register(handle, selectors.EVENT_READ)


def _tell(answers: socket.socket, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
        answers.send(str(number).encode())


def _become(task: Task, streams: list[int]) -> None:
    """Put in force what the process was started with."""
    for handle, stream in zip(streams, (0, 1, 2), strict=True):
        os.dup2(handle, stream)
        os.close(handle)
    for name in (PLATFORMS, OWN):
        jax.config.update(name.lower(), task.environment.get(name))
    if not task.session:  # a fork of the server could not join this process's group
        subprocess.Popen = Popen  # type: ignore[misc]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(task.environment)
    os.chdir(task.folder)
    at_once = bool(task.environment.get(UNBUFFERED)) or "-u" in flags_of(task.words)
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8")
    sys.stdout = sys.__stdout__ = _written(1, "strict", os.isatty(1), at_once)
    sys.stderr = sys.__stderr__ = _written(2, "backslashreplace", True, at_once)


def _written(stream: int, errors: str, by_line: bool, at_once: bool) -> io.TextIOWrapper:
    raw = io.FileIO(stream, "w", closefd=False)
    file = raw if at_once else io.BufferedWriter(raw)
    return io.TextIOWrapper(file, "utf-8", errors, line_buffering=by_line, write_through=at_once)


def _main(task: Task) -> None:
    """What an interpreter does with its arguments."""
    flags = flags_of(task.words)
    option, *rest = task.words[1 + len(flags) :]
    if option.startswith("-m") and option != "-m":
        option, rest = "-m", [option[2:], *rest]
    if option == "-c":
        folder, code, sys.argv = "", rest[0], ["-c", *rest[1:]]
    elif option == "-m":
        folder, sys.argv = task.folder, rest
    else:
        folder, sys.argv = str(Path(option).parent.resolve()), [option, *rest]
    path = task.environment.get(PATH, "").split(os.pathsep)
    sys.path[:2] = [*([] if "-P" in flags else [folder]), *filter(None, path)]  # in place of the server's own
    if option == "-c":
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), vars(main))
    elif option == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(option, run_name="__main__")


class Leaving:
    """The last of what is done at exit: leave, without taking down module by module what will not be needed.

    Attributes:
        code: to exit with; None where the interpreter has more to do.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        atexit.register(self._leave)  # before any other: it runs last

    def watch(self, task: Task) -> None:
        """Run what was asked for."""
        try:
            _main(task)
        except SystemExit as ended:
            if ended.code is None or isinstance(ended.code, int):
                self.code = (ended.code or 0) & 0xFF
            raise
        except Exception:
            self.code = 1
            raise
        self.code = 0

    def _leave(self) -> None:
        if self.code is None:
            return
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:  # the interpreter will say so
                return
        os._exit(self.code)


def main(handles: list[int], settings: list[list[str]], imported: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leaving = Leaving()
    for module in (*IMPORTED, *imported):
        importlib.import_module(module)
    share_context()
    gc.collect()
    gc.freeze()
    asked, asking, life = (socket.socket(fileno=handle) for handle in handles)
    zygote.INHERITED[tuple((name, value) for name, value in settings), tuple(imported)] = asking
    task, streams = _serve(asked, life)
    _become(task, streams)
    leaving.watch(task)


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
