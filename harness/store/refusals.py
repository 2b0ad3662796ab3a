"""Where the exceptions of h5py, of the file system and of fsspec become a GoldenError, and nowhere else."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from harness.errors import GoldenError, HarnessError

FETCH_AGAIN = "fetch the golden again, or record it anew with `goldens record`"


def reading(where: object) -> AbstractContextManager[None]:
    """Turn whatever goes wrong while reading into a GoldenError.

    Every `Exception`, because a damaged file makes h5py raise OSError, KeyError, RuntimeError,
    ValueError, TypeError or UnicodeDecodeError, and remote file systems raise classes of their own.

    Raises:
        GoldenError: anything went wrong.
    """
    problem = "this part of the golden cannot be read: it is damaged, or the medium fails"
    return _refusing(where, lambda _: problem, FETCH_AGAIN)


def writing(where: object) -> AbstractContextManager[None]:
    """Turn whatever goes wrong while writing into a GoldenError.

    Raises:
        GoldenError: anything went wrong.
    """

    def problem(error: Exception) -> str:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        return "the golden cannot be written" + (": no room is left" if full else "")

    return _refusing(where, problem, "nothing was published; give --out a place that can be written and has room")


@contextmanager
def _refusing(where: object, problem: Callable[[Exception], str], hint: str) -> Iterator[None]:
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        raise GoldenError(problem(error), where=where, found=_described(error), hint=hint) from error


def damaged(problem: str, where: object, expected: object = None, found: object = None) -> GoldenError:
    """The refusal of a golden that is not what it was, or says what cannot be."""
    return GoldenError(problem, where=where, expected=expected, found=found, hint=FETCH_AGAIN)


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
