"""Named blobs below an fsspec URL: `gs://`, `s3://`, `memory://` and so on.

fsspec is imported only for a URL; it and the file systems behind it are the `remote` extra. Retries are theirs.
Ours is the time by which a call must have ended: theirs would go on for minutes where nobody listens.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from copy import copy
from datetime import timedelta
from typing import Any

from harness.errors import GoldenError, first_line
from harness.store.files import Files, Wanted

REMOTE_EXTRA = "pip install 'goldens[remote]'"
AT_ONCE = 32
# Seconds until the first answer: whoever mistyped an endpoint waits no longer. Later ones may need the library's
# retries, and a large blob takes its time even at a megabyte in a second.
FIRST_ANSWER, ANSWER, SLOWEST = 10.0, 60.0, 1e6
# Where the first part of a path is a bucket: it is not ours to make, as fsspec's `makedirs` would.
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; a server of your own: AWS_ENDPOINT_URL",
    "gs": "`gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS; a server of your own: "
    "STORAGE_EMULATOR_HOST",
}
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "RefreshError")
REFUSED = (401, 403)

for library in ("gcsfs", "s3fs", "google.auth"):  # what they log without a handler would stand beside our refusal
    logging.getLogger(library).addHandler(logging.NullHandler())


class RemoteFiles(Files):
    """Objects below a URL.

    Raises:
        GoldenError: whatever the store's library raises, but FileNotFoundError and FileExistsError.
    """

    at_once = AT_ONCE

    def __init__(self, url: str) -> None:
        self.where = url
        self._protocol = {"gcs": "gs", "s3a": "s3"}.get(kind := url.partition("://")[0], kind)
        self._files, root = filesystem(url, look_for_credentials=self._protocol == "gs")
        self._root = root.rstrip("/")
        self._answered = False

    def below(self, folder: str) -> RemoteFiles:
        below = copy(self)
        below.where, below._root = f"{self.where.rstrip('/')}/{folder}", f"{self._root}/{folder}"
        return below

    def read(self, path: str, limit: int) -> bytes:
        # A range request for one byte more than allowed: the answer is bounded whatever lies there.
        data = bytes(self._call("cat_file", f"{self._root}/{path}", start=0, end=limit + 1, nbytes=limit))
        if len(data) > limit:
            raise self.too_long(path, limit)
        return data

    def read_many(self, wanted: list[Wanted]) -> list[bytes | Exception]:
        paths = [f"{self._root}/{path}" for path, _ in wanted]
        ends = [limit + 1 for _, limit in wanted]
        options: dict[str, Any] = {"batch_size": AT_ONCE} if self._files.async_impl else {}
        got = self._call(
            "cat_ranges", paths, [0] * len(paths), ends, on_error="return", nbytes=sum(ends), **options
        )
        return [self._checked(*pair) for pair in zip(wanted, got, strict=True)]

    def _checked(self, wanted: Wanted, got: Any) -> bytes | Exception:
        path, limit = wanted
        if isinstance(got, Exception):
            return got if isinstance(got, FileNotFoundError) else self._refusal(got)
        return bytes(got) if len(got) <= limit else self.too_long(path, limit)

    def write(self, path: str, data: bytes | memoryview) -> None:
        self._put(path, bytes(data))

    def create(self, path: str, data: bytes) -> bool:
        """Store a blob where there is none, in one step if the store has such a step; whether there was none."""
        try:
            self._put(path, data, mode="create")
        except FileExistsError:
            return False
        return True

    def _put(self, path: str, data: bytes, **options: Any) -> None:
        target = f"{self._root}/{path}"
        try:
            self._call("pipe_file", target, data, nbytes=len(data), **options)
        except FileNotFoundError:  # no object store, but something with directories, such as sftp://
            self.refuse_no_bucket()
            self._call("makedirs", target.rpartition("/")[0], exist_ok=True)
            self._call("pipe_file", target, data, nbytes=len(data), **options)

    def paths(self) -> Iterator[str]:
        self._files.invalidate_cache()
        above = self._root.strip("/") + "/"  # some file systems answer with a leading slash, some without
        for name in self._call("find", self._root):
            path = name.lstrip("/").removeprefix(above)
            if not path.rpartition("/")[2].startswith("."):
                yield path

    def occupied(self) -> bool:
        """Whether anything lies below the URL."""
        self._files.invalidate_cache()
        return bool(self._call("find", self._root)) if self._call("exists", self._root) else False

    def remove(self, paths: list[str]) -> None:
        """Delete these blobs."""
        if paths:
            self._call("rm", [f"{self._root}/{path}" for path in paths], nbytes=len(paths) * SLOWEST)

    def older(self, path: str, other: str, by: timedelta) -> bool:
        """Whether one blob was stored so long before another; False where the store does not know times."""
        try:
            return bool(self._modified(other) - self._modified(path) > by)
        except (FileNotFoundError, NotImplementedError):
            return False

    def _modified(self, path: str) -> Any:
        return self._call("modified", f"{self._root}/{path}", timed=False)  # s3fs has no asynchronous one

    def refuse_no_bucket(self) -> None:
        """Raises: GoldenError, where the bucket is not there."""
        bucket = self._root.lstrip("/").partition("/")[0]
        if self._protocol in CREDENTIALS and not self._call("exists", bucket):
            expected, found = f"a bucket called {bucket}", "none, or none that may be seen"
            hint = "check the name; make the bucket with your provider's own tool"
            raise GoldenError("there is no such bucket", self.where, expected, found, hint=hint)

    def _call(self, method: str, *args: Any, nbytes: float = 0, timed: bool = True, **options: Any) -> Any:
        """One call of the file system, which ends in time.

        Args:
            nbytes: what may travel.
            timed: whether this call takes a time.
        """
        seconds = (ANSWER if self._answered else FIRST_ANSWER) + nbytes / SLOWEST
        if timed and self._files.async_impl:
            options["timeout"] = seconds
        try:
            got = getattr(self._files, method)(*args, **options)
        except (FileNotFoundError, FileExistsError, NotImplementedError):
            self._answered = True
            raise
        except TimeoutError:
            raise self._silent(seconds) from None
        except Exception as error:
            raise self._refusal(error) from error
        self._answered = True
        return got

    def _silent(self, seconds: float) -> GoldenError:
        hint = f"check the network and the endpoint, and try again ({self._remedy()})"
        expected, found = (
            f"an answer within {seconds:.0f} s",
            "none, or only failures that its library tried again",
        )
        return GoldenError("the store of this URL does not answer", self.where, expected, found, hint=hint)

    def _refusal(self, error: Exception) -> GoldenError:
        refused = isinstance(error, PermissionError) or type(error).__name__ in NO_CREDENTIALS
        refused = refused or getattr(error, "code", None) in REFUSED or str(error).startswith("Forbidden")
        found = f"{type(error).__name__}: {first_line(error)}"
        if not refused:
            hint = f"try again; check the network and the endpoint ({self._remedy()})"
            return GoldenError("the store of this URL fails", self.where, found=found, hint=hint)
        problem = "the store of this URL refuses access: credentials are missing, or are not allowed to"
        expected = "credentials that may read it, and write to it where that is asked"
        return GoldenError(problem, self.where, expected, found, hint=f"give credentials: {self._remedy()}")

    def _remedy(self) -> str:
        return CREDENTIALS.get(self._protocol, "or copy the golden to a local path")


def filesystem(url: str, look_for_credentials: bool = False) -> tuple[Any, str]:
    """The file system of a URL and the path in it.

    Args:
        look_for_credentials: whether making it may take its time: gcsfs asks a cloud's metadata server for half a
            minute where there is none.

    Raises:
        GoldenError: fsspec or the package for this kind of URL is not installed, or the kind is unknown; no
            credentials were found in time.
    """
    try:
        from fsspec.core import url_to_fs

        def make() -> tuple[Any, str]:
            files, root = url_to_fs(url, use_listings_cache=False)
            return files, root

        return _in_time(make) if look_for_credentials else make()
    except TimeoutError:
        problem, expected = "no credentials for this URL were found", f"some within {FIRST_ANSWER:.0f} s"
        hint = f"give credentials: {CREDENTIALS['gs']}; a public bucket needs none: FSSPEC_GS_TOKEN=anon"
        raise GoldenError(problem, url, expected, hint=hint) from None
    except ImportError as error:
        problem = f"this kind of URL needs a package that is not installed: {error}"
        raise GoldenError(problem, url, hint=f"`{REMOTE_EXTRA}`, or copy the golden to a local path") from None
    except Exception as error:
        hint = "give a URL that fsspec knows, such as gs://bucket/name.zarr or s3://bucket/name.zarr"
        raise GoldenError(f"this URL cannot be opened: {error}", url, hint=hint) from error


def _in_time(make: Callable[[], tuple[Any, str]]) -> tuple[Any, str]:
    """What `make` returns or raises, in a thread that nobody waits for when its time is over.

    Raises:
        TimeoutError: it took longer than a first answer may.
    """
    made: Future[tuple[Any, str]] = Future()

    def run() -> None:
        try:
            made.set_result(make())
        except Exception as error:
            made.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return made.result(FIRST_ANSWER)
