"""A port, loaded at the precision that it is to run at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.architecture import Config
from harness.errors import HarnessError
from harness.run.port import Port
from harness.run.precision import jax_dtype

Loader = Callable[[Path, Config, Any], Port]


class Ports:
    """One port at several precisions, loaded once for each; only the one used last is kept.

    Args:
        lift: whether a port that does not do so by itself is lifted in float64.
    """

    def __init__(self, load: Loader, checkpoint: Path, config: Config, lift: bool) -> None:
        self._load, self._checkpoint, self._config, self._lift = load, checkpoint, config, lift
        self._loaded: tuple[str, Port] | None = None
        self._unloadable: dict[str, HarnessError] = {}

    def at(self, precision: str) -> Port:
        """The port at a precision, which is in force.

        Raises:
            HarnessError: it cannot be loaded. What took minutes to fail is not tried again for every case.
        """
        if precision in self._unloadable:
            raise self._unloadable[precision]
        if self._loaded is None or self._loaded[0] != precision:
            self._loaded = None  # release the last one's weights before the next one's are read
            try:
                port = self._load(self._checkpoint, self._config, jax_dtype(precision))
            except HarnessError as error:
                self._unloadable[precision] = error
                raise
            if precision == "float64" and self._lift and not getattr(port, "lifts", False):
                from harness.run.tracing.lifted_port import LiftedPort

                port = LiftedPort(port, self._config)
            self._loaded = precision, port
        return self._loaded[1]
