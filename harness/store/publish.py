"""Atomic publishing: a golden appears whole under its name, or not at all.

The new golden is written to a dot-prefixed sibling and takes the name in one step: `rename` for a file or a new
directory, an exchange of the two names (`renameat2`, Linux) for a directory that is there. Where the exchange is
not to be had, two renames do: a kill between them leaves the old golden under a sibling name ending in `.old`,
from which the next write restores it and which `interrupted` lets the reader name.

A sibling in the making is locked, and the kernel drops the lock when its writer dies, so a leftover can be told
from another writer at work.

Some steps a signal's exception must not cut short (`undisturbed`): two renames that belong together, and calls
into libhdf5, which calls back into Python for every write. Ctrl-C that is raised there never reaches whoever
called HDF5: h5py drops it, and HDF5, which takes it for a failed write, tries again without end when it closes the
file.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.errors import GoldenError
from harness.store.abc import writing

UNFINISHED = ".tmp"
SYNCED_AT_ONCE = 8
LARGE = 64 * 2**20  # bytes
AT_FDCWD = -100
RENAME_EXCHANGE = 2
HELD = (signal.SIGINT, signal.SIGTERM)


def interrupted(final: Path) -> Path | None:
    """Where the old golden lies, if a write was killed between two renames; None in all other cases."""
    old = _old(final)
    return old if old.exists() and not final.exists() else None


@contextmanager
def publishing(final: Path, directory: bool) -> Iterator[Path]:
    """A temporary path to write to. Leaving the block publishes it; an exception removes it.

    Raises:
        GoldenError: another write to `final` is under way, or the file system refuses.
    """
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}{UNFINISHED}")
    with writing(final):
        _clean(final)
        lock = _create(temporary, directory)
    try:
        yield temporary
        with writing(final):
            _publish(temporary, final, directory, lock)
    finally:
        with suppress(OSError):
            os.close(lock)
        _remove(temporary)


def _publish(temporary: Path, final: Path, directory: bool, lock: int) -> None:
    if directory:
        _sync_tree(temporary)
    else:
        os.fsync(lock)
    if directory and final.exists():
        if not _exchange(temporary, final):
            with undisturbed():
                final.rename(_old(final))
                temporary.rename(final)
            _remove(_old(final))
    else:
        temporary.replace(final)
    with suppress(OSError):  # published already; not every file system lets a directory be synced
        parent = os.open(final.parent, os.O_RDONLY)
        os.fsync(parent)
        os.close(parent)


def _sync_tree(directory: Path) -> None:
    """Everything below a directory to the disk.

    File by file, since `sync` waits for what all others write, too; several at once, because a file system takes
    those that wait together to the disk in one go: 615 files took 2.4 s one by one, and 0.1 s by eights.
    """
    paths = [
        path for folder, _, names in os.walk(directory) for path in (*(f"{folder}/{n}" for n in names), folder)
    ]
    with ThreadPoolExecutor(SYNCED_AT_ONCE) as pool:
        for _ in pool.map(_sync, paths):
            pass  # to raise what one of them raised


@contextmanager
def reaching_the_disk(path: Path) -> Iterator[None]:
    """What a large file holds goes to the disk while the block works on something else."""
    if path.stat().st_size < LARGE:
        yield
        return
    with ThreadPoolExecutor(1) as pool:
        syncing = pool.submit(_sync, str(path))
        yield
    syncing.result()


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step; False where system or file system cannot."""
    if sys.platform != "linux":
        return False
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError):
        return False
    return bool(renameat2(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0)


def _create(temporary: Path, directory: bool) -> int:
    """Make the temporary file or directory and lock it; the lock goes with the process."""
    if directory:
        temporary.mkdir()
        handle = os.open(temporary, os.O_RDONLY)
    else:
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    _try_lock(handle)
    return handle


def _clean(final: Path) -> None:
    """Remove what killed writes to the same path left behind; finish what they had begun."""
    old = interrupted(final)
    if old:
        old.rename(final)
    for path in final.parent.iterdir():
        if path.name.startswith(f".{final.name}.") and path.name.endswith(UNFINISHED):
            _refuse_if_alive(path, final)
            _remove(path)
    _remove(_old(final))


def _refuse_if_alive(path: Path, final: Path) -> None:
    with suppress(FileNotFoundError):
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # not to wait where somebody made a FIFO of it
        try:
            free = _try_lock(handle)
        finally:
            os.close(handle)
        if not free:
            problem, hint = (
                "another write to this golden is under way",
                "wait for it to end, or give another --out",
            )
            raise GoldenError(problem, final, found=path.name, hint=hint)


def _try_lock(handle: int) -> bool:
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: then leftovers cannot be told from writers at work
        return True
    return True


def _old(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back what SIGINT and SIGTERM raise until the block has ended.

    Handlers are exchanged, and signals not blocked: a signal to the process may reach another thread, and Python
    would run its handler in this one all the same. Only the main thread runs handlers, and only it may do this.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in HELD}
    raising = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in raising:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in raising.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
