"""A port, loaded at the precision that it is to run at; it may be given as a class, a module or an object."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.architecture import Config
from harness.errors import HarnessError, PortError, UsageError
from harness.run.mesh import mesh_of
from harness.run.port import Port, load_from
from harness.run.precision import jax_dtype
from harness.run.question import Question, shown_axes

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


def port_from_object(port: Any, question: Question) -> tuple[str, Loader | None]:
    """The name by which a report calls a port, and its loader; None where the name itself is the spec.

    Raises:
        PortError: it is neither a spec, nor has it `load`, nor `forward`.
        UsageError: a loaded port is to be checked at several precisions, or on a mesh.
    """
    if isinstance(port, str):
        return port, None
    name = _name(port)
    if isinstance(port, type | ModuleType):
        if callable(getattr(port, "load", None)):

            def load(directory: Path, config: Config, dtype: Any) -> Port:
                return load_from(port, name, directory, config, dtype, mesh_of(question.mesh))

            return name, load
    elif callable(getattr(port, "forward", None)):
        if len(question.precisions) != 1:
            raise UsageError(
                "a port that is already loaded has one dtype and cannot be checked at several precisions",
                where=name,
                expected="one precision",
                found=", ".join(question.precisions),
                hint='check_golden(port, precision="float32"), or give the class, which is then loaded for each',
            )
        if question.mesh:
            raise UsageError(
                "a port that is already loaded is where it is and cannot be given a mesh",
                where=name,
                expected="no mesh",
                found=shown_axes(question.mesh),
                hint="give the class, which is then loaded on the mesh, or load the port on it and leave mesh out",
            )
        return name, lambda *_: port
    raise PortError(
        "this is not a port",
        where=name,
        expected="package.module:Name, a class or module with load(), or an object with forward()",
        found=port,
        hint="see the contract at the head of harness/run/port.py",
    )


def _name(port: object) -> str:
    if isinstance(port, ModuleType):
        return port.__name__
    kind = port if isinstance(port, type) else type(port)
    return f"{kind.__module__}:{kind.__qualname__}"
