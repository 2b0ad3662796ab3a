"""JAX's compilation cache during the tests: one for all processes of pytest, and what they start takes part.

JAX writes an entry where it is read, without a lock, so it cannot have one directory in several processes. Those
of pytest read and write a shared one in a way of their own, where an entry appears whole or not at all. What a
process of pytest starts, `goldens` say, has JAX's own cache in a directory of that process; the two exchange what
they have between tests.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

SHARED = "GOLDENS_TESTS_COMPILED"
OWN = "JAX_COMPILATION_CACHE_DIR"
SUFFIX = "-cache"  # JAX's
INDEX = "index"  # the names of all entries, in the order in which they came


class Compiled:
    """The directory that the processes of a run share, and this one's for what it starts, put in force for JAX.

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
        self._linked: set[str] = set()
        self._read = 0
        self._seen = self.own.stat().st_mtime_ns

    def _make(self) -> str:
        self._made.append(tempfile.TemporaryDirectory(prefix="goldens-compiled-"))
        return self._made[-1].name

    def get(self, key: str) -> bytes | None:
        """An entry; None where no process has compiled it."""
        try:
            return (self.shared / f"{key}{SUFFIX}").read_bytes()
        except FileNotFoundError:
            return None

    def put(self, key: str, value: bytes) -> None:
        """Add an entry, unless another process had it sooner."""
        handle, name = tempfile.mkstemp(dir=self.shared, prefix=".")
        with os.fdopen(handle, "wb") as file:
            file.write(value)
        try:
            self._share(Path(name), f"{key}{SUFFIX}")
        finally:
            Path(name).unlink()

    def _share(self, file: Path, name: str) -> None:
        with contextlib.suppress(FileExistsError):
            (self.shared / name).hardlink_to(file)
            with (self.shared / INDEX).open("ab", buffering=0) as index:
                index.write(f"{name}\n".encode())  # one line at a time: those of several processes do not mix

    def exchange(self) -> None:
        """Share what this process's children compiled, and give them what there is.

        Call it between two tests: then nothing is being written.
        """
        if self.own.stat().st_mtime_ns != self._seen:
            for name in {file.name for file in self.own.iterdir()} - self._linked:
                self._linked.add(name)
                self._share(self.own / name, name)
        for name in self._new():
            self._linked.add(name)
            with contextlib.suppress(FileExistsError):
                (self.own / name).hardlink_to(self.shared / name)
        self._seen = self.own.stat().st_mtime_ns

    def _new(self) -> list[str]:
        """The names of entries that have come since the last time."""
        try:
            with (self.shared / INDEX).open("rb") as index:
                index.seek(self._read)
                lines, _, _ = index.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._read += len(lines) + bool(lines)
        return lines.decode().split()

    def cleanup(self) -> None:
        for directory in self._made:
            directory.cleanup()


def share(compiled: Compiled) -> None:
    """Let JAX keep what this process compiles where all processes find it.

    There is no public way to say so; where JAX has it no longer, every process has a cache of its own.
    """
    from jax._src import compilation_cache
    from jax._src.compilation_cache_interface import CacheInterface

    class Shared(CacheInterface):
        _path = compiled.shared

        def get(self, key: str) -> bytes | None:
            return compiled.get(key)

        def put(self, key: str, value: bytes) -> None:
            compiled.put(key, value)

    if hasattr(compilation_cache, "_cache") and hasattr(compilation_cache, "_cache_initialized"):
        compilation_cache._cache, compilation_cache._cache_initialized = Shared(), True


def share_context() -> None:
    """Let all programs of this process be built in one MLIR context.

    JAX makes one for each of them and loads all its dialects into it, which takes longer than building a small
    program. There is no public way to say so; where JAX has it no longer, every program has its own again.
    """
    from jax._src.interpreters import mlir

    if hasattr(mlir, "make_ir_context"):
        mlir.make_ir_context = functools.cache(mlir.make_ir_context)
