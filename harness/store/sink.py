"""The file beneath HDF5 while a golden is written, whose failures HDF5 never sees.

libhdf5 does not survive a full disk: it tries again at every release of every handle, and version 2.0.0
then takes the process with it (SIGSEGV). Here the first failure is kept for the writer to raise, and
everything after it is dropped, so that HDF5 can close a file that will be thrown away.
"""

from __future__ import annotations

import io
from pathlib import Path


class Sink:
    """What h5py's `fileobj` driver asks of a file, with `error` in place of exceptions.

    Raises:
        OSError: the file cannot be opened. Nothing else raises but `check`.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self.error: OSError | None = None

    def check(self) -> None:
        """Raise what went wrong since the beginning, if anything did.

        Raises:
            OSError: the first failure.
        """
        if self.error is not None:
            raise self.error

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: memoryview) -> int:
        return self._file.readinto(buffer) or 0

    def write(self, data: memoryview) -> int:
        """Write all of it: one call may write less than asked where a limit or the end of the disk is near."""
        left = memoryview(data)
        size = left.nbytes
        try:
            while self.error is None and left.nbytes:
                left = left[self._file.write(left) or 0 :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            if self.error is None:
                return self._file.truncate(size)
        except OSError as error:
            self.error = error
        return size or 0

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            self.error = self.error or error
