"""Unfinished work on disk: `{out}.partial/`, from which a killed recording goes on.

settings.json                        everything that decides the result; other settings, and the work is discarded
lock                                 held while a recording runs
units/{stage}/{case}.{sha256}.safetensors
                                     one unit of work, complete or not there: written aside, then renamed. Its name
                                     has the sha256 of its header, and its header that of every tensor; nothing is
                                     read from it before it is seen to have them
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.errors import RecordError, first_line
from harness.record.unit import Unit
from harness.store.location import local_of, url_of

LONGEST_HEADER = 100_000_000  # safetensors' own limit


def partial_directory(out: str) -> Path:
    """Where the work for an output lies: beside it, or here where the output is a URL."""
    if url_of(out):
        return Path(f"{out.rstrip('/').rpartition('/')[2]}.partial")
    local = local_of(out)
    return local.with_name(f"{local.name}.partial")


class Work:
    """The work directory of one output."""

    def __init__(self, out: str) -> None:
        self.directory = partial_directory(out)
        self._settings = self.directory / "settings.json"
        self._sound: set[tuple[str, str]] = set()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory against a second recording to the same path.

        Raises:
            RecordError: another recording is at work there, or the directory cannot be made.
        """
        with _writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.directory / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:  # a kind of OSError
            hint = "wait for it, or record to another path: --out"
            raise RecordError("another recording to this path is at work", self.directory, hint=hint) from None
        except OSError as error:
            raise _unwritable(self.directory, error) from None
        try:
            yield
        finally:
            if not self._settings.exists():  # nothing was begun, or everything is finished
                shutil.rmtree(self.directory, ignore_errors=True)
            lock.release()

    def begin(self, settings: bytes) -> bool:
        """Take up the work that is there, if it was done under the same settings; otherwise discard it.

        Returns:
            Whether work under other settings was discarded.
        """
        earlier = self._settings.read_bytes() if self._settings.is_file() else None
        if earlier != settings:
            with _writing(self.directory):
                shutil.rmtree(self.directory / "units", ignore_errors=True)
                aside = self._settings.with_suffix(".tmp")
                aside.write_bytes(settings)
                aside.replace(self._settings)
        return earlier not in (None, settings)

    def finish(self) -> None:
        """The golden is written: nothing here is needed any more."""
        self._settings.unlink()

    def has(self, stage: str, case: str) -> bool:
        """Whether this unit is done, and its file what was written: one that is damaged is removed."""
        if (stage, case) in self._sound:
            return True
        files = self._files(stage, case)
        for path in files:
            if len(files) > 1 or not _is_sound(path):
                path.unlink(missing_ok=True)
                return False
        self._sound.update([(stage, case)] if files else [])
        return bool(files)

    def save(self, stage: str, case: str, unit: Unit) -> int:
        """Write one unit; returns its size in bytes.

        Raises:
            RecordError: no room, or not writable. What is done so far stays.
        """
        tensors = {f"state/{stream}": value for stream, value in unit.state.items()}
        tensors |= {f"truth/{tap}": value for tap, value in unit.truth.items()}
        tensors |= {f"top/{name}": value for name, value in unit.top.items()}
        tensors |= {
            f"noise/{precision}/{kind}": torch.from_numpy(floors.copy())
            for (precision, kind), floors in unit.noise.items()
        }
        return self.put(stage, case, tensors)

    def put(self, stage: str, case: str, tensors: Mapping[str, Tensor]) -> int:
        """Write the tensors of one unit; see `save`."""
        here = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        folder = self.directory / "units" / stage
        aside = folder / f"{case}.tmp"
        with _writing(aside):
            folder.mkdir(parents=True, exist_ok=True)
            save_file(here, aside, {name: _digest(tensor) for name, tensor in here.items()})
            size = aside.stat().st_size
            for old in self._files(stage, case):
                old.unlink()
            # Not synced: what a power cut takes of it shows when it is read.
            aside.replace(folder / f"{case}.{_digest_of_header(aside)}.safetensors")
        return size

    def state(self, stage: str, case: str, device: torch.device) -> dict[str, Tensor]:
        """The hidden states that a unit handed on, by stream."""
        with self.reading(stage, case) as unit:
            names = [name for name in unit.digests if name.startswith("state/")]
            return {name.partition("/")[2]: unit.tensor(name).to(device) for name in names}

    @contextlib.contextmanager
    def reading(self, stage: str, case: str) -> Iterator[Stored]:
        """A unit's file, open for reading.

        Raises:
            RecordError: it is not what was written; also later, when a tensor is asked for.
        """
        files = self._files(stage, case)
        where = self.directory / "units" / stage / case
        if len(files) != 1 or not _has_its_header(files[0]):
            raise damaged(where, f"{len(files)} files")
        with _opened(files[0], where) as file:
            yield Stored(where, file, file.metadata())

    def _files(self, stage: str, case: str) -> list[Path]:
        """The files of a unit: one, or none."""
        return [*(self.directory / "units" / stage).glob(f"{case}.{'[0-9a-f]' * 64}.safetensors")]


@dataclass(frozen=True, eq=False)
class Stored:
    """A unit's file while it is open.

    Attributes:
        digests: the sha256 of every tensor, by name.
    """

    where: Path
    file: Any
    digests: Mapping[str, str]

    def tensor(self, name: str) -> Tensor:
        """A tensor, as long as the file is open: it lies in the file.

        Raises:
            RecordError: it does not have its sha256.
        """
        tensor: Tensor = self.file.get_tensor(name)
        if _digest(tensor) != self.digests[name]:
            raise damaged(self.where, f"another one: {name}")
        return tensor


def damaged(where: Path, found: str) -> RecordError:
    expected = "one file that has the sha256 in its name, of tensors that have theirs"
    hint = "run the same command again: it does that unit anew, and goes on"
    return RecordError("a unit of the work in progress is missing or damaged", where, expected, found, hint=hint)


def _is_sound(path: Path) -> bool:
    """Whether a unit's file is what was written."""
    if not _has_its_header(path):
        return False
    try:
        with _opened(path, path) as file:
            unit = Stored(path, file, file.metadata())
            for name in unit.digests:
                unit.tensor(name)
    except RecordError:
        return False
    return True


def _opened(path: Path, where: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:  # it is shorter than its header says
        raise damaged(where, first_line(error)) from None


def _has_its_header(path: Path) -> bool:
    return path.is_file() and _digest_of_header(path) == path.name.split(".")[1]


def _digest(tensor: Tensor) -> str:
    """The sha256 of a tensor's bytes, as that of an array in a golden."""
    return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def _digest_of_header(path: Path) -> str:
    """The sha256 of a header, with the length that comes before it: names, shapes and places of all tensors."""
    with path.open("rb") as file:
        length = file.read(8)
        header = file.read(min(int.from_bytes(length, "little"), LONGEST_HEADER))
    return hashlib.sha256(length + header).hexdigest()


@contextlib.contextmanager
def _writing(where: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise _unwritable(where, error) from None


def _unwritable(where: Path, error: Exception) -> RecordError:
    problem = f"the work in progress cannot be written: {getattr(error, 'strerror', None) or error}"
    hint = "make room there, or make it writable, and run the same command: it goes on where it stopped"
    return RecordError(problem, where, hint=hint)
