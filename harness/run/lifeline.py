"""A connection between the processes of a check for as long as it runs: whoever ends without a word ends them all.

JAX notices a dead process where it exchanges data with it, or after half a minute without a sign of life, and then
aborts. The system closes a connection at once, whatever a process died of.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
from collections.abc import Callable, Iterator

import numpy as np
from jax.experimental import multihost_utils

from harness.errors import PortError, UsageError
from harness.run.processes import Processes

SECONDS = 60.0  # for all to connect, which they do at the same time
FAREWELL = b"."
KEY_BYTES = 4
Dead = Callable[[PortError], None]


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
        raise UsageError(
            "the processes of the check cannot reach each other",
            where=str(asked),
            found=f"{type(error).__name__}: {error}",
            hint="the host of --coordinator must be that of process 0, on a network without a filter between them",
        ) from error
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
    found = b""
    with contextlib.suppress(OSError):
        while len(found) < count and (part := peer.recv(count - len(found))):
            found += part
    return found


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
