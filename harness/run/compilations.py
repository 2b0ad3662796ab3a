"""What a check spends on compiling: where a port runs operation by operation, each is compiled for every shape.

With a cache there are many shapes of calls, and a check can take ten minutes that are nearly all compiling. The
report then says so, and what to do about it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence

import jax

from harness.run.port import Call

EVENT = "/jax/core/compile/backend_compile_duration"
# A port that is compiled has a program or two for every shape of call, and some small ones around them.
MOST_A_SHAPE = 10
# What takes less, or less of a check, is nobody's concern.
LEAST_SECONDS, LEAST_SHARE = 30.0, 0.5


class Compilations:
    """Counts the programs that are compiled from here on."""

    def __init__(self) -> None:
        self._total = _total()
        self._programs, self._seconds = self._total
        self._start = time.monotonic()

    def notes(self, sequences: Sequence[Sequence[Call]]) -> tuple[str, ...]:
        """What a report has to say, where most of the time went into compiling many small programs.

        Args:
            sequences: the calls that were made meanwhile.
        """
        programs, seconds = int(self._total[0] - self._programs), self._total[1] - self._seconds
        elapsed = time.monotonic() - self._start
        shapes = {(call.input_ids.shape, call.mask.shape) for calls in sequences for call in calls}
        if programs <= MOST_A_SHAPE * len(shapes) or seconds < max(LEAST_SECONDS, LEAST_SHARE * elapsed):
            return ()
        several = "one shape" if len(shapes) == 1 else f"{len(shapes)} shapes"
        return (
            f"compiling took {seconds:.0f} of {elapsed:.0f} s: {programs:,} programs for calls of {several}. "
            "The port runs operation by operation: harness.run.tapping.Tapped makes a layer one program "
            "(harness/run/README.md)",
        )


@functools.cache
def _total() -> list[float]:
    """How many programs were compiled in this process since it was first asked for, and how long that took."""
    total = [0.0, 0.0]

    def listen(event: str, seconds: float, **_: object) -> None:
        if event == EVENT:
            total[0] += 1
            total[1] += seconds

    jax.monitoring.register_event_duration_secs_listener(listen)
    return total
