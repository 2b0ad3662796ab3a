"""A check in several processes: each has some of the devices and runs the port, and the first one reports.

All of them compare the same gathered values, so that they come to the same verdict; that they do is looked at.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
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
        refusals = (
            (self.count < 2, "a check in several processes has two or more", "2 or more", self.count),
            (
                not 0 <= self.index < self.count,
                "there is no process of this number",
                f"--process-id 0 to {self.count - 1}",
                self.index,
            ),
            (
                not (host and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16),
                "this is not the address of a coordinator",
                "HOST:PORT, at which the first process listens",
                self.coordinator,
            ),
        )
        for wrong, problem, expected, found in refusals:
            if wrong:
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
    missing = [
        option
        for option, value in (("--processes", count), ("--process-id", index), ("--coordinator", address))
        if value is None
    ]
    if count is None or index is None or address is None:
        raise UsageError(
            "a check in several processes needs all that says which of them this one is",
            where=", ".join(missing),
            expected=f"--processes, --process-id and --coordinator (or the environment variable {VARIABLE})",
            found=f"no {', no '.join(missing)}",
            hint=HINT,
        )
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
        raise UsageError(
            "JAX does not start with several processes",
            where=str(asked),
            found=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            hint="the coordinator's port must be free, and every process must be started once",
        ) from error
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
            where=", ".join(f"process {index}: exit code {one}" for index, one in enumerate(codes)),
            expected="the same in all: they compare the same values",
            hint="a value that JAX takes for replicated is another one in each process: look for a missing psum, "
            "or for inputs that depend on jax.process_index()",
        )


def leave() -> None:
    """Part from the others, once all of them are here. Nothing can be computed on their devices afterwards."""
    jax.distributed.shutdown()
