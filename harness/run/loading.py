"""A port, found by name or given as a class, a module or an object, and loaded at the precision of a check."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from jax.sharding import Mesh

from harness.architecture import Config
from harness.errors import HarnessError, PortError, UsageError
from harness.run.contained import blaming_the_port
from harness.run.devices import mesh_of
from harness.run.dialect import in_both_dialects
from harness.run.port import BUILT_IN, Port
from harness.run.precision import jax_dtype
from harness.run.question import Question, shown_axes

Loader = Callable[[Path, Config, Any], Port]
_SPEC_HINT = f"for example --port {BUILT_IN}, or my_package.my_port:Port with my_package importable"


def find_port(spec: str) -> Any:
    """Import the class or module that `package.module:Name` (or `package.module`) names.

    The current directory is importable, as it is for `python -m`.

    Raises:
        PortError: a malformed spec, an import that fails, a missing name, or no `load`.
    """
    module_name, _, name = spec.partition(":")
    if not module_name:
        raise PortError("this is not a port", f"--port {spec}", "package.module:Name", hint=_SPEC_HINT)
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    with blaming_the_port(f"--port {spec}", "the port cannot be imported:", _SPEC_HINT):
        port = importlib.import_module(module_name)
        for part in filter(None, name.split(".")):
            port = getattr(port, part)
        loads = callable(getattr(port, "load", None))
    if not loads:
        expected = "load(checkpoint_dir, config, dtype, mesh) -> port"
        hint = "see the contract at the head of harness/run/port.py"
        raise PortError("the port has no load()", f"--port {spec}", expected, port, hint=hint)
    return port


def load_port(spec: str, checkpoint: Path, config: Config, dtype: Any, mesh: Mesh | None = None) -> Port:
    """Find a port and load it.

    Raises:
        PortError: it cannot be found, its `load` raises, or what it returns has no `forward`.
    """
    return load_from(find_port(spec), spec, checkpoint, config, dtype, mesh)


def load_from(
    factory: Any, spec: str, checkpoint: Path, config: Config, dtype: Any, mesh: Mesh | None = None
) -> Port:
    """Load a port from its class or module, called `spec` in messages.

    Raises:
        PortError: its `load` raises, or what it returns has no `forward`.
    """
    given = in_both_dialects(config)
    with blaming_the_port(f"{spec}: load"):
        port: Port = factory.load(checkpoint, given, dtype, mesh)
        runs = callable(getattr(port, "forward", None))
    if not runs:
        problem = "what the port's load() returned has no forward()"
        expected = "forward(input_ids, positions, mask, cache, tap) -> (logits, cache)"
        hint = "see the contract at the head of harness/run/port.py"
        raise PortError(problem, spec, expected, type(port).__name__, hint=hint)
    return port


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
            return name, lambda directory, config, dtype: load_from(
                port, name, directory, config, dtype, mesh_of(question.mesh)
            )
    elif callable(getattr(port, "forward", None)):
        if len(question.precisions) != 1:
            problem = "a port that is already loaded has one dtype and cannot be checked at several precisions"
            hint = 'check_golden(port, precision="float32"), or give the class, which is then loaded for each'
            raise UsageError(problem, name, "one precision", ", ".join(question.precisions), hint=hint)
        if question.mesh:
            problem = "a port that is already loaded is where it is and cannot be given a mesh"
            hint = "give the class, which is then loaded on the mesh, or load the port on it and leave mesh out"
            raise UsageError(problem, name, "no mesh", shown_axes(question.mesh), hint=hint)
        return name, lambda *_: port
    expected = "package.module:Name, a class or module with load(), or an object with forward()"
    hint = "see the contract at the head of harness/run/port.py"
    raise PortError("this is not a port", name, expected, port, hint=hint)


def _name(port: object) -> str:
    if isinstance(port, ModuleType):
        return port.__name__
    kind = port if isinstance(port, type) else type(port)
    return f"{kind.__module__}:{kind.__qualname__}"
