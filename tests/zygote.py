"""Processes that begin where most of their time would have gone: jax and the harness are imported.

A server (`python -m tests.zygote`), one for every process of pytest that asks for one, has imported them, and
forks for each process that is started: `run` and `Popen` are those of `subprocess`, for `[sys.executable, ...]`.
It has neither started a thread nor a backend of JAX, so that what it forks is what an interpreter is after its
imports: with arguments, environment, streams, working directory, signals and exit code of its own. What importing
reads from the environment is the server's: for other such variables there is another server. What such a process
starts as `[sys.executable, ...]` is a fork too, but in a session of its own.

Where start-up itself is tested, processes are started by `subprocess`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import io
import itertools
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from tests.compiled import OWN, share_context

ROOT = Path(__file__).parent.parent
HERE = str(ROOT)
FORKS = hasattr(os, "pidfd_open")
# What importing reads of the environment, as far as anybody here sets it; but what every process puts in force.
READ = ("PYTHON", "JAX_", "OMP_", "HF_", "LANG", "LC_")
PATH, UNBUFFERED, PLATFORMS = "PYTHONPATH", "PYTHONUNBUFFERED", "JAX_PLATFORMS"
IN_FORCE = (PATH, UNBUFFERED, PLATFORMS, OWN)
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
# What `goldens record` imports besides.
RECORDING = ("harness.cli.record_command", "harness.record.recorder", "transformers.models.qwen2.modeling_qwen2")
START = subprocess.Popen
SIZE = 1 << 18  # of a message


class Popen(subprocess.Popen):
    """A process that starts as a fork of the server, where there can be one; else as any other.

    Args:
        words: `sys.executable` and `-c`, `-m` or the path of a script, with or without `-P` or `-u` before it.
        imported: modules that it has imported besides.
        options: of `subprocess.Popen`, of those that the tests need.
    """

    def __init__(self, words: list[str], *, imported: tuple[str, ...] = (), **options: Any) -> None:
        self._imported = imported
        self._answers: Any = None
        super().__init__(words, **options)

    def _execute_child(self, args: list[str], executable: Any, *given: Any) -> None:
        (_, _, _, cwd, env, _, _, _, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *_, session, _) = (
            given
        )
        environment = dict(os.environ if env is None else env)
        if not FORKS or not _is_understood(args):
            super()._execute_child(args, executable, *given)
            return
        server = _server(_settings(environment), self._imported)
        self._answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        task = Task([str(word) for word in args], str(cwd or Path.cwd()), environment, session)
        streams = [own if own != -1 else usual for own, usual in ((p2cread, 0), (c2pwrite, 1), (errwrite, 2))]
        with theirs:
            socket.send_fds(server, [json.dumps(vars(task)).encode()], [*streams, theirs.fileno()])
        said = self._answers.recv(SIZE)
        if not said:
            raise OSError("the server has ended: its own messages are above")
        self.pid = int(said)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]

    def _internal_poll(self, *given: Any, **named: Any) -> int | None:
        if self._answers is None:
            return super()._internal_poll(*given, **named)
        return self._ended(0)

    def _wait(self, timeout: float | None) -> int:
        if self._answers is None:
            return super()._wait(timeout)
        if self._ended(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self._answers.settimeout(timeout)
            try:
                self.returncode = int(self._answers.recv(SIZE))
            except (BlockingIOError, TimeoutError):
                return None
            self._answers.close()
        return self.returncode


def run(words: list[str], *, capture_output: bool = False, timeout: float | None = None, **options: Any) -> Any:
    """`subprocess.run` of a process that starts as a fork of the server."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    check = options.pop("check", False)
    with Popen(words, **options) as process:
        try:
            out, said = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(words, process.returncode, out, said)
    if check:
        done.check_returncode()
    return done


@dataclass
class Task:
    """What a process is started with."""

    words: list[str]
    folder: str
    environment: dict[str, str]
    session: bool


def _is_understood(words: Any) -> bool:
    if not isinstance(words, list | tuple) or words[0] != sys.executable:
        return False
    what = str(words[1 + len(_flags(words))])
    return what == "-c" or what.startswith("-m") or not what.startswith("-")


def _flags(words: Sequence[Any]) -> list[Any]:
    return list(itertools.takewhile(lambda word: word in ("-P", "-u"), words[1:]))


def _settings(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """What the server is started with; harness and tests are those of this checkout, whatever is on the path."""
    read = {name: value for name, value in environment.items() if name.startswith(READ) and name not in IN_FORCE}
    return tuple(sorted({**read, PATH: HERE}.items()))


@functools.cache
def _server(settings: tuple[tuple[str, str], ...], imported: tuple[str, ...]) -> socket.socket:
    if (settings, imported) in _inherited:
        return _inherited[settings, imported]
    asking, asked = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours, theirs = socket.socketpair()
    others = {name: value for name, value in os.environ.items() if not name.startswith(READ)}
    handles = [one.fileno() for one in (asked, asking, theirs)]
    words = [sys.executable, "-m", "tests.zygote", json.dumps([handles, settings, imported])]
    with asked, theirs:
        process = START(words, env=others | dict(settings), cwd=ROOT, pass_fds=handles)

    def end() -> None:
        asking.close()
        ours.close()  # which the server notices
        process.wait()

    atexit.register(end)
    return asking


# In a process that was forked, the socket on which its server is asked for another.
_inherited: dict[tuple[tuple[tuple[str, str], ...], tuple[str, ...]], socket.socket] = {}


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
    at_once = bool(task.environment.get(UNBUFFERED)) or "-u" in _flags(task.words)
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8")
    sys.stdout = sys.__stdout__ = _written(1, "strict", os.isatty(1), at_once)
    sys.stderr = sys.__stderr__ = _written(2, "backslashreplace", True, at_once)


def _written(stream: int, errors: str, by_line: bool, at_once: bool) -> io.TextIOWrapper:
    raw = io.FileIO(stream, "w", closefd=False)
    file = raw if at_once else io.BufferedWriter(raw)
    return io.TextIOWrapper(file, "utf-8", errors, line_buffering=by_line, write_through=at_once)


def _main(task: Task) -> None:
    """What an interpreter does with its arguments."""
    flags = _flags(task.words)
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
    _inherited[tuple((name, value) for name, value in settings), tuple(imported)] = asking
    task, streams = _serve(asked, life)
    _become(task, streams)
    leaving.watch(task)


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
