"""What somebody else made: files, regular ones alone and no more of them than was allowed for, and JSON in them.

A FIFO at a path makes `open` wait until somebody writes, a device may never end, and a file of gigabytes fills the
memory. What is no regular file is refused before a byte is read; symbolic links are followed.

What readers of JSON disagree about is refused: Python takes the last of two equal keys, reads NaN and Infinity,
which no JSON has, 1e999 as infinity, and an escaped half of a surrogate pair as a character that cannot be written
again.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

MIB = 2**20
DEEPEST = 64  # levels of JSON

KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class UnfitFileError(OSError):
    """What lies at a path is no regular file, or longer than it may be."""


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading, unbuffered.

    Raises:
        FileNotFoundError: nothing is there.
        UnfitFileError: something else than a regular file is.
        OSError: it cannot be opened.
    """
    _refuse_irregular(path, os.stat(path).st_mode)  # noqa: PTH116 - paths of thousands of arrays are strings
    # What was there may have been replaced: without O_NONBLOCK the open of a FIFO would still wait.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | getattr(os, "O_BINARY", 0))
    try:
        _refuse_irregular(path, os.fstat(descriptor).st_mode)
    except UnfitFileError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb", buffering=0)


def read_regular(path: str | Path, limit: int) -> bytes:
    """The whole content of a regular file.

    Raises:
        FileNotFoundError: nothing is there.
        UnfitFileError: it is no regular file, or longer than `limit` bytes; no more than that is ever in memory.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise _too_long(path, limit)
        parts, left = [], limit + 1  # a file may grow while it is read, and one of /proc has no size
        while left and (part := file.read(min(left, 16 * MIB))):
            parts.append(part)
            left -= len(part)
    if not left:
        raise _too_long(path, limit)
    return b"".join(parts)


def read_text(path: str | Path, limit: int) -> str:
    """The same as text, in UTF-8.

    Raises:
        OSError: as `read_regular`.
        UnicodeDecodeError: it is not UTF-8.
    """
    return read_regular(path, limit).decode("utf-8")


def _refuse_irregular(path: str | Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "something else")
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise UnfitFileError(code, f"it is {kind}, not a regular file", str(path))


def _too_long(path: str | Path, limit: int) -> UnfitFileError:
    return UnfitFileError(errno.EFBIG, f"it is longer than {limit:,} bytes", str(path))


def parse(content: bytes) -> Any:
    """The value of a JSON text in UTF-8.

    Raises:
        ValueError: it is not JSON, not UTF-8, nested deeper than `DEEPEST`, has one key twice in an object, a
            number that is not finite, or a text that is not Unicode.
    """
    try:
        value = json.loads(
            content.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant, parse_float=_float
        )
    except RecursionError:
        raise _too_deep() from None
    if is_deeper(value, DEEPEST):
        raise _too_deep()
    json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone surrogate is a UnicodeEncodeError, a ValueError
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"one object has the key {key[:80]!r} twice")
        made[key] = value
    return made


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:80]} is beyond every float")
    return value


def is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested deeper than so many levels, however deep they are."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(levels):
        below = (inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer))
        level = [inner for inner in below if isinstance(inner, (dict, list))]
    return bool(level)


def _too_deep() -> ValueError:
    return ValueError(f"it is nested deeper than {DEEPEST} levels")
