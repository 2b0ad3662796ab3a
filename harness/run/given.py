"""A port that is given as an object and not as a spec: a class or module with `load`, or one already loaded."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from harness.architecture import Config
from harness.errors import PortError, UsageError
from harness.run.loading import Loader
from harness.run.mesh import mesh_of
from harness.run.port import Port, load_from
from harness.run.question import Question, shown_axes


def given_port(given: Any, question: Question) -> tuple[str, Loader | None]:
    """The name by which a report calls a port, and its loader; None where the name itself is the spec.

    Raises:
        PortError: it is neither a spec, nor has it `load`, nor `forward`.
        UsageError: a loaded port is to be checked at several precisions, or on a mesh.
    """
    if isinstance(given, str):
        return given, None
    name = _name(given)
    if isinstance(given, type | ModuleType):
        if callable(getattr(given, "load", None)):

            def load(directory: Path, config: Config, dtype: Any) -> Port:
                return load_from(given, name, directory, config, dtype, mesh_of(question.mesh))

            return name, load
    elif callable(getattr(given, "forward", None)):
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
        return name, lambda *_: given
    raise PortError(
        "this is not a port",
        where=name,
        expected="package.module:Name, a class or module with load(), or an object with forward()",
        found=given,
        hint="see the contract at the head of harness/run/port.py",
    )


def _name(given: object) -> str:
    if isinstance(given, ModuleType):
        return given.__name__
    kind = given if isinstance(given, type) else type(given)
    return f"{kind.__module__}:{kind.__qualname__}"
