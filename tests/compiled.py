"""JAX's compilation cache during the tests: a directory for every process of pytest, and what they all share.

JAX writes an entry where it is read, without a lock, so no two processes may have one directory. They give each
other their finished entries instead: a hard link appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import time
from collections.abc import MutableMapping
from pathlib import Path

SHARED = "GOLDENS_TESTS_COMPILED"
TICK = 100_000_000  # ns
OWN = "JAX_COMPILATION_CACHE_DIR"


class Compiled:
    """This process's directory, put in force for JAX, and the one that the workers of a run share.

    Args:
        environment: of this process. The first process of a run makes the shared directory and names it there, for
            those that it starts.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._made: list[tempfile.TemporaryDirectory[str]] = []
        if SHARED not in environment:
            environment[SHARED] = self._make()
        environment[OWN] = self._make()
        self.own, self.shared = Path(environment[OWN]), Path(environment[SHARED])
        self._known: dict[Path, set[str]] = {self.own: set(), self.shared: set()}
        self._seen = {self.own: 0, self.shared: 0}

    def _make(self) -> str:
        self._made.append(tempfile.TemporaryDirectory(prefix="goldens-compiled-"))
        return self._made[-1].name

    def exchange(self) -> None:
        """Give what was compiled here since the last time, and take what others gave. Call it between two tests:
        then nothing is being written here."""
        self._link(self.own, self.shared)
        self._link(self.shared, self.own)

    def _link(self, source: Path, target: Path) -> None:
        changed = source.stat().st_mtime_ns
        if changed == self._seen[source]:
            return
        # A time of change is that of the last tick of a clock: within one there may be another change.
        self._seen[source] = changed if time.time_ns() - changed > TICK else 0
        with os.scandir(source) as entries:
            new = {entry.name for entry in entries} - self._known[source]
        for name in new:
            self._known[source].add(name)
            with contextlib.suppress(FileExistsError):
                (target / name).hardlink_to(source / name)

    def cleanup(self) -> None:
        for directory in self._made:
            directory.cleanup()


def share_context() -> None:
    """Let all programs of this process be built in one MLIR context.

    JAX makes one for each of them and loads all its dialects into it, which takes longer than building a small
    program. There is no public way to say so; where JAX has it no longer, every program has its own again.
    """
    from jax._src.interpreters import mlir

    if hasattr(mlir, "make_ir_context"):
        mlir.make_ir_context = functools.cache(mlir.make_ir_context)
