"""The calls by which a process changes the file system, counted; at one of them something happens.

`Faults(folder, at, what).install()` is for a child that ends soon: nothing is put back.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.store import publish

KINDS = ("kill before", "kill after", "kill half-way", "SIGTERM", "SIGINT", "full disk", "error")
WITH_PATHS = ("replace", "rename", "unlink", "remove", "mkdir", "rmdir", "link", "symlink")


class Faults:
    """One fault at the call of this number.

    Attributes:
        at: the number of the call, from 0; None only counts.
        calls: the names of the calls so far.
    """

    def __init__(self, folder: Path, at: int | None, kind: str) -> None:
        self.folder, self.at, self.kind = str(folder), at, kind
        self.calls: list[str] = []
        self._full = False
        self._lock = threading.Lock()

    def install(self) -> Faults:
        """From now on every call below the folder is counted."""
        for name in WITH_PATHS:
            setattr(os, name, self._wrapped(name, getattr(os, name), by_path=True))
        os.fsync = self._wrapped("fsync", os.fsync, by_path=False)  # type: ignore[assignment]
        publish._exchange = self._wrapped("exchange", publish._exchange, by_path=True)  # type: ignore[assignment]
        opened = io.open
        builtins.open = io.open = lambda file, mode="r", *args, **options: self._open(  # type: ignore[assignment]
            opened, file, mode, *args, **options
        )
        return self

    def _wrapped(self, name: str, call: Callable[..., Any], by_path: bool) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            if by_path and options.get("dir_fd") is None and not self._ours(args[0]):
                return call(*args, **options)
            grows = name in ("mkdir", "link", "symlink")
            return self.event(name, lambda: call(*args, **options), lambda: None, grows)

        return counted

    def _open(self, opened: Callable[..., Any], file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if not isinstance(mode, str) or not set(mode) & set("wxa+") or not self._ours(file):
            return opened(file, mode, *args, **options)
        made = self.event("open", lambda: opened(file, mode, *args, **options), lambda: None, grows=True)
        return _File(made, self)

    def _ours(self, path: Any) -> bool:
        return isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(self.folder)

    def event(self, name: str, call: Callable[[], Any], half: Callable[[], Any], grows: bool) -> Any:
        """One call: done, or what was to happen in its place."""
        with self._lock:
            number = len(self.calls)
            self.calls.append(name)
        if self._full and grows:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if number != self.at:
            return call()
        if self.kind == "kill half-way":
            half()
        if self.kind in ("kill before", "kill half-way"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "full disk":
            self._full = True
            if grows:
                half()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.kind == "error":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self.kind in ("SIGTERM", "SIGINT"):
            os.kill(os.getpid(), getattr(signal, self.kind))
        result = call()
        if self.kind == "kill after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result


class _File:
    """A file open for writing, whose writes are counted."""

    def __init__(self, file: Any, faults: Faults) -> None:
        self._file, self._faults = file, faults

    def write(self, data: Any) -> Any:
        part = data[: len(data) // 2] if isinstance(data, str) else memoryview(data).cast("B")[: len(data) // 2]

        def half() -> None:
            with contextlib.suppress(OSError):
                self._file.write(part)
                self._file.flush()

        return self._faults.event("write", lambda: self._file.write(data), half, grows=True)

    def truncate(self, *size: Any) -> Any:
        return self._faults.event("truncate", lambda: self._file.truncate(*size), lambda: None, grows=True)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
