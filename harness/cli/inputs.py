"""What a command reads, as paths: no output may be one of them."""

from __future__ import annotations

import importlib.machinery
import sys
from pathlib import Path


def port_file(spec: str) -> Path | None:
    """The file of the module that `package.module:Name` names, without importing it; None where there is none."""
    package, *parts = spec.partition(":")[0].split(".")
    if not package.isidentifier():
        return None
    here = str(Path.cwd())
    found = importlib.machinery.PathFinder.find_spec(package, [here, *sys.path])
    if found is None or (found.origin is None and not found.submodule_search_locations):
        return None
    folder = next(iter(found.submodule_search_locations or ()), None)
    if folder is None or not parts:
        return Path(found.origin) if found.origin else None
    module = Path(folder, *parts)
    return module / "__init__.py" if module.is_dir() else module.with_suffix(".py")


def side_file(text: str) -> Path | None:
    """The file behind a side of a diff: a saved check, or the module of a port."""
    return Path(text) if text.endswith(".json") or Path(text).is_file() else port_file(text)
