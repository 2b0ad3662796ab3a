"""Processes that begin where most of their time would have gone: jax and the harness are imported.

A server (`tests.zygote_server`), one for every process of pytest that asks for one, has imported them, and forks
for each process that is started: `run` and `Popen` are those of `subprocess`, for `[sys.executable, ...]`.
It has neither started a thread nor a backend of JAX, so that what it forks is what an interpreter is after its
imports: with arguments, environment, streams, working directory, signals and exit code of its own. What importing
reads from the environment is the server's: for other such variables there is another server. What such a process
starts as `[sys.executable, ...]` is a fork too, but in a session of its own.

Where start-up itself is tested, processes are started by `subprocess`.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.compiled import OWN

ROOT = Path(__file__).parent.parent
HERE = str(ROOT)
FORKS = hasattr(os, "pidfd_open")
# What importing reads of the environment, as far as anybody here sets it; but what every process puts in force.
READ = ("PYTHON", "JAX_", "OMP_", "HF_", "LANG", "LC_")
PATH, UNBUFFERED, PLATFORMS = "PYTHONPATH", "PYTHONUNBUFFERED", "JAX_PLATFORMS"
IN_FORCE = (PATH, UNBUFFERED, PLATFORMS, OWN)
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
    what = str(words[1 + len(flags_of(words))])
    return what == "-c" or what.startswith("-m") or not what.startswith("-")


def flags_of(words: Sequence[Any]) -> list[Any]:
    return list(itertools.takewhile(lambda word: word in ("-P", "-u"), words[1:]))


def _settings(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """What the server is started with; harness and tests are those of this checkout, whatever is on the path."""
    read = {name: value for name, value in environment.items() if name.startswith(READ) and name not in IN_FORCE}
    return tuple(sorted({**read, PATH: HERE}.items()))


@functools.cache
def _server(settings: tuple[tuple[str, str], ...], imported: tuple[str, ...]) -> socket.socket:
    if (settings, imported) in INHERITED:
        return INHERITED[settings, imported]
    asking, asked = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours, theirs = socket.socketpair()
    others = {name: value for name, value in os.environ.items() if not name.startswith(READ)}
    handles = [one.fileno() for one in (asked, asking, theirs)]
    words = [sys.executable, "-m", "tests.zygote_server", json.dumps([handles, settings, imported])]
    with asked, theirs:
        process = START(words, env=others | dict(settings), cwd=ROOT, pass_fds=handles)

    def end() -> None:
        asking.close()
        ours.close()  # which the server notices
        process.wait()

    atexit.register(end)
    return asking


# In a process that was forked, the socket on which its server is asked for another.
INHERITED: dict[tuple[tuple[tuple[str, str], ...], tuple[str, ...]], socket.socket] = {}
