"""Where the exceptions of h5py, of the file system and of fsspec become a GoldenError, and nowhere else."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from harness.errors import GoldenError, HarnessError

FETCH_AGAIN = "fetch the golden again, or record it anew with `goldens record`"


@contextmanager
def reading(where: object) -> Iterator[None]:
    """Turn whatever goes wrong while reading into a GoldenError.

    Every `Exception`, because a damaged file makes h5py raise OSError, KeyError, RuntimeError,
    ValueError, TypeError or UnicodeDecodeError, and remote file systems raise classes of their own.

    Raises:
        GoldenError: anything went wrong.
    """
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        raise GoldenError(
            "this part of the golden cannot be read: it is damaged, or the medium fails",
            where=where,
            found=_described(error),
            hint=FETCH_AGAIN,
        ) from error


@contextmanager
def writing(where: object) -> Iterator[None]:
    """Turn whatever goes wrong while writing into a GoldenError.

    Raises:
        GoldenError: anything went wrong.
    """
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        raise GoldenError(
            "the golden cannot be written" + (": no room is left" if full else ""),
            where=where,
            found=_described(error),
            hint="nothing was published; give --out a place that can be written and has room",
        ) from error


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
