"""What a backend is: a way to read one golden's arrays and a way to write them.

The backends know nothing of cases and taps. They are given paths that `contents` has checked, and
entries of a manifest whose own sha256 has been checked, and hold the disk to them.
tests/store/test_store.py, run on every backend, is the definition of what they must do.

Here the exceptions of h5py, of the file system and of fsspec become a GoldenError, and nowhere else.
"""

from __future__ import annotations

import errno
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import numpy as np

from harness.errors import GoldenError, HarnessError
from harness.golden import ArrayEntry, Form
from harness.layout import Labels

ANOTHER_PATH = "give the path of a golden; `goldens record` makes one"
FETCH_AGAIN = "fetch the golden again, or record it anew with `goldens record`"
MANIFEST = "manifest"
MANIFEST_DIM = "manifest_byte"
DIMENSIONS = "dimensions"
SHA256 = "sha256"
DIGEST = re.compile("[0-9a-f]{64}")
DTYPES = ("float64", "float32", "int32", "bool", "uint8")


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
        found = f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
        raise GoldenError(problem(error), where, found=found, hint=hint) from error


def damaged(problem: str, where: object, expected: object = None, found: object = None) -> GoldenError:
    """The refusal of a golden that is not what it was, or says what cannot be."""
    return GoldenError(problem, where, expected, found, hint=FETCH_AGAIN)


def sha256(data: bytes | np.ndarray) -> str:
    """The hex digest of bytes, or of a C-ordered little-endian array's bytes, without copying them."""
    return hashlib.sha256(data if isinstance(data, bytes) else raw(data)).hexdigest()


def raw(array: np.ndarray) -> memoryview:
    """The bytes of a C-ordered array, not copied."""
    return array.reshape(-1).view(np.uint8).data


def little_endian(name: str) -> np.dtype:
    """The numpy dtype of one of the names in `DTYPES`, as it lies on disk."""
    return np.dtype(name).newbyteorder("<")


def labels_array(labels: Labels) -> np.ndarray:
    """Labels as they lie on disk: int32, or strings of one length."""
    if isinstance(labels[0], int):
        return np.array(labels, "<i4")
    return np.array([str(label).encode("ascii") for label in labels])


def early_path(scale: str) -> str:
    """The second name of a dimension scale, which HDF5 comes across first: see `hdf5_writer`."""
    parts = scale.split("/")
    return "/".join([DIMENSIONS, parts[1] if len(parts) > 1 else MANIFEST, parts[-1]])


def parents(path: str) -> list[str]:
    """The groups above a path, outermost first, the root not among them."""
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def agree(fact: str, where: str, expected: object, found: object) -> None:
    """Hold the disk to the manifest.

    Raises:
        GoldenError: they differ.
    """
    if expected != found:
        raise damaged(f"{fact} on disk is not what the manifest says", where, expected, found)


Piece = tuple[str, ArrayEntry, int]  # one slab: the array's path, its entry, and which


class Reader(ABC):
    """One golden open for reading. `where` is its path or URL, for messages."""

    where: str

    def array(self, path: str, entry: ArrayEntry, index: int | None = None, called: str = "") -> np.ndarray:
        """The array at `path`, of the entry's shape and dtype, read-only: nobody edits a golden by mistake.

        Args:
            index: of one slab of a stack, which alone is read and verified; None means the whole array.
            called: what a message calls that slab.

        Raises:
            GoldenError: it is missing, differs from its entry, or does not have its sha256.
        """
        if index is None and entry.stacked:
            array = np.empty(entry.shape, little_endian(entry.dtype))
            for _, _, slab in self.ahead((path, entry, slab) for slab in range(entry.slabs)):
                array[slab] = self.array(path, entry, slab)
        else:
            where = f"{self.where}: {path}" + (f" ({called or f'slab {index}'})" if entry.stacked else "")
            with reading(where):
                array = self.read(path, entry, index or 0)
            agree("the sha256 of an array", where, entry.sha256[index or 0], sha256(array))
        array.flags.writeable = False
        return array

    def manifest(self) -> bytes:
        """The manifest's bytes, verified against the sha256 stored beside it.

        Raises:
            GoldenError: this is not a golden, or its manifest is damaged.
        """
        where = f"{self.where}: {MANIFEST}"
        with reading(where):
            encoded, digest = self.read_manifest()
        if sha256(encoded) != digest:
            problem = "the manifest is damaged: it does not have the sha256 stored beside it"
            raise damaged(problem, where, digest, sha256(encoded))
        return encoded

    @abstractmethod
    def read_manifest(self) -> tuple[bytes, str]:
        """The manifest's bytes and the sha256 stored beside it.

        Raises:
            GoldenError: there is no manifest.
        """

    @abstractmethod
    def read(self, path: str, entry: ArrayEntry, slab: int) -> np.ndarray:
        """The bytes of one slab as an array, once shape, dtype and stored size are known to be the entry's.

        Raises:
            GoldenError: missing, or not as the entry says. Nothing has been allocated then.
        """

    def ahead(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """The same pieces, each of which is read next. Where that pays, several are fetched at once.

        What is fetched is bounded in bytes, and verified like all else when `array` reads it.
        """
        yield from pieces

    def is_whole(self) -> bool:
        """Whether what is on disk is, byte for byte, what was written, as far as the layout can tell."""
        return True

    @abstractmethod
    def check_structure(self, path: str, entry: ArrayEntry, labels: Mapping[str, Labels]) -> None:
        """Hold everything on disk about the array but its data to its entry, dimension names and labels included.

        Called only where `is_whole`.

        Raises:
            GoldenError: something differs.
        """

    @abstractmethod
    def check_nothing_else(self, arrays: Mapping[str, ArrayEntry], labels: Mapping[str, Labels]) -> None:
        """Refuse whatever is on disk beside arrays, labels, the manifest, and what the layout itself needs.

        Called when all arrays have been found whole.

        Raises:
            GoldenError: there is something that is no part of the golden.
        """

    @property
    @abstractmethod
    def nbytes(self) -> int | None:
        """The size on disk; None where finding out would mean asking for every object."""

    def close(self) -> None:
        """Release the file, where one is held open. Closing twice is allowed."""
        return


class Writer(ABC):
    """One golden being written, not yet visible under its name."""

    @abstractmethod
    def put(self, path: str, form: Form, slab: int, array: np.ndarray) -> None:
        """Store one slab of an array: little-endian, C order, of a dtype in `DTYPES`, not empty.

        Slabs of several arrays may come in turn; each array's come in order, from the first to the last.
        """

    @abstractmethod
    def finish(self, manifest: bytes, digest: str) -> None:
        """Store the manifest, last, and close."""

    def close(self) -> None:
        """Release the file, where one is held open, finished or not. Closing twice is allowed."""
        return
