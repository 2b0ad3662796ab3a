"""A check in several processes: each has some of the devices and runs the port, and the first one reports.

All of them compare the same gathered values, so that they come to the same verdict; that they do is looked at.

They are connected for as long as it runs: whoever ends without a word ends them all. JAX notices a dead process
where it exchanges data with it, or after half a minute without a sign of life, and then aborts. The system closes
a connection at once, whatever a process died of.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils

from harness.errors import PortError, UsageError

VARIABLE = "JAX_COORDINATOR_ADDRESS"
JOIN_SECONDS = 120.0
HEARTBEAT_SECONDS = 30  # without a sign of life for so long, a process counts as dead: JAX then ends the others
OPTIONS = "--processes 2 --process-id 0 --coordinator localhost:1234"
HINT = f"for example {OPTIONS}, and the same command with --process-id 1 beside it"
SECONDS = 60.0  # for all to connect, which they do at the same time
FAREWELL = b"."
KEY_BYTES = 4
Dead = Callable[[PortError], None]


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this one is.

    Attributes:
        coordinator: HOST:PORT, at which the first process listens.
    """

    count: int
    index: int
    coordinator: str

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            UsageError: a single process, a number beyond the last, an address without a port.
        """
        host, _, port = self.coordinator.rpartition(":")
        numbers, address = f"--process-id 0 to {self.count - 1}", "HOST:PORT, at which the first process listens"
        is_address = host and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16
        needed = (
            (self.count > 1, "a check in several processes has two or more", "2 or more", self.count),
            (0 <= self.index < self.count, "there is no process of this number", numbers, self.index),
            (is_address, "this is not the address of a coordinator", address, self.coordinator),
        )
        for holds, problem, expected, found in needed:
            if not holds:
                raise UsageError(problem, where=str(self), expected=expected, found=found, hint=HINT)

    def __str__(self) -> str:
        return f"--processes {self.count} --process-id {self.index} --coordinator {self.coordinator}"


def processes_of(count: int | None, index: int | None, coordinator: str | None) -> Processes | None:
    """The options put together; None where none of them is given. A coordinator may be in JAX's own variable.

    Raises:
        UsageError: some of them are missing, or say what cannot be.
    """
    if count is None and index is None and coordinator is None:
        return None
    address = coordinator or os.environ.get(VARIABLE)
    given = {"--processes": count, "--process-id": index, "--coordinator": address}
    missing = [option for option, value in given.items() if value is None]
    if count is None or index is None or address is None:
        problem = "a check in several processes needs all that says which of them this one is"
        expected = f"--processes, --process-id and --coordinator (or the environment variable {VARIABLE})"
        raise UsageError(problem, ", ".join(missing), expected, f"no {', no '.join(missing)}", hint=HINT)
    asked = Processes(count, index, address)
    asked.check()
    return asked


def join(asked: Processes, give_up: Callable[[UsageError], None], seconds: float = JOIN_SECONDS) -> None:
    """Wait for the others. To be called before JAX is asked for its devices.

    Args:
        give_up: called, from another thread, where they have not come in time. It has to end the process: JAX
            would abort it.

    Raises:
        UsageError: JAX refuses.
    """
    absent = UsageError(
        "not all processes of the check have come",
        where=str(asked),
        expected=f"{asked.count} processes within {seconds:g} seconds, one for each --process-id",
        hint="start the same command once for each --process-id, with one coordinator that all of them reach",
    )
    waiting = threading.Timer(seconds, give_up, (absent,))
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(
            asked.coordinator,
            asked.count,
            asked.index,
            initialization_timeout=int(seconds) + 60,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        problem = "JAX does not start with several processes"
        hint = "the coordinator's port must be free, and every process must be started once"
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UsageError(problem, str(asked), found=found, hint=hint) from error
    finally:
        waiting.cancel()


def agree(code: int) -> None:
    """Compare the exit codes of all processes.

    Raises:
        PortError: they are not the same.
    """
    codes = multihost_utils.process_allgather(np.int32(code)).ravel().tolist()
    if len(set(codes)) > 1:
        raise PortError(
            "the processes of the check do not come to one verdict",
            where=", ".join(f"process {index}: exit code {exit_code}" for index, exit_code in enumerate(codes)),
            expected="the same in all: they compare the same values",
            hint="a value that JAX takes for replicated is another one in each process: look for a missing psum, "
            "or for inputs that depend on jax.process_index()",
        )


def leave() -> None:
    """Part from the others, once all of them are here. Nothing can be computed on their devices afterwards."""
    jax.distributed.shutdown()


@contextlib.contextmanager
def lifeline(asked: Processes, dead: Dead) -> Iterator[None]:
    """Watch the other processes while the block runs: the first one watches all, and the rest the first.

    Args:
        dead: called, from another thread, where one of them ends before the block does. It has to end this one.

    Raises:
        UsageError: no connection.
    """
    try:
        peers = _accepted(asked) if asked.index == 0 else {0: _connected(asked)}
    except OSError as error:
        problem = "the processes of the check cannot reach each other"
        hint = "the host of --coordinator must be that of process 0, on a network without a filter between them"
        raise UsageError(problem, str(asked), found=f"{type(error).__name__}: {error}", hint=hint) from error
    for index, peer in peers.items():
        threading.Thread(target=_watch, args=(asked, index, peer, dead), daemon=True).start()
    yield
    for peer in peers.values():
        with contextlib.suppress(OSError):  # it has said farewell already, and is gone
            peer.sendall(FAREWELL)


def _accepted(asked: Processes) -> dict[int, socket.socket]:
    """Connections to all others, by process; whoever does not know the key is nobody of ours."""
    key = secrets.token_bytes(KEY_BYTES)
    with socket.create_server(("", 0)) as server:
        server.settimeout(SECONDS)
        _shared(server.getsockname()[1], key)
        peers: dict[int, socket.socket] = {}
        while len(peers) < asked.count - 1:
            peer, _ = server.accept()
            peer.settimeout(SECONDS)
            said = _received(peer, KEY_BYTES + 4)
            index = int.from_bytes(said[KEY_BYTES:], "big")
            if said[:KEY_BYTES] == key and 0 < index < asked.count and index not in peers:
                peers[index] = peer
            else:
                peer.close()
    return peers


def _connected(asked: Processes) -> socket.socket:
    port, key = _shared(0, bytes(KEY_BYTES))
    host = asked.coordinator.rpartition(":")[0].strip("[]")
    peer = socket.create_connection((host, port), SECONDS)
    peer.sendall(key + asked.index.to_bytes(4, "big"))
    return peer


def _shared(port: int, key: bytes) -> tuple[int, bytes]:
    """The port and the key of the first process, in all of them."""
    own = np.asarray([port, *key], np.int32)
    known = np.asarray(multihost_utils.broadcast_one_to_all(own)).tolist()
    return known[0], bytes(known[1:])


def _received(peer: socket.socket, count: int) -> bytes:
    """So many bytes, or fewer where the connection ends before."""
    received = b""
    with contextlib.suppress(OSError):
        while len(received) < count and (part := peer.recv(count - len(received))):
            received += part
    return received


def _watch(asked: Processes, index: int, peer: socket.socket, dead: Dead) -> None:
    peer.settimeout(None)
    if _received(peer, len(FAREWELL)) != FAREWELL:
        dead(
            PortError(
                "another process of the check has ended",
                where=f"process {index}",
                expected=f"all {asked.count} processes, until the verdict is known",
                hint="what that process said last tells why; where it was killed, as for its memory, nothing does",
            )
        )
