"""Unfinished work on disk: `{out}.partial/`, from which a killed recording goes on.

settings.json                        everything that decides the result; other settings, and the work is discarded
lock                                 held while a recording runs
units/{stage}/{case}.{sha256}.safetensors
                                     one unit of work, complete or not there: written aside, then renamed. Its name
                                     has the sha256 of its bytes, and nothing is read from it before they are seen
                                     to have it
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from harness.errors import RecordError
from harness.record.unit import Unit
from harness.store.location import local_of, url_of


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
            raise RecordError(
                "another recording to this path is at work",
                where=self.directory,
                hint="wait for it, or record to another path: --out",
            ) from None
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
        found = self._settings.read_bytes() if self._settings.is_file() else None
        if found != settings:
            with _writing(self.directory):
                shutil.rmtree(self.directory / "units", ignore_errors=True)
                _write_aside(self._settings, settings)
        return found not in (None, settings)

    def finish(self) -> None:
        """The golden is written: nothing here is needed any more."""
        self._settings.unlink()

    def has(self, stage: str, case: str) -> bool:
        """Whether this unit is done, and its file what was written: one that is damaged is removed."""
        if (stage, case) in self._sound:
            return True
        found = self._found(stage, case)
        for path in found:
            if len(found) > 1 or not _is_sound(path):
                path.unlink(missing_ok=True)
                return False
        self._sound.update([(stage, case)] if found else [])
        return bool(found)

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
        content = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
        folder = self.directory / "units" / stage
        path = folder / f"{case}.{hashlib.sha256(content).hexdigest()}.safetensors"
        with _writing(path):
            folder.mkdir(parents=True, exist_ok=True)
            for old in self._found(stage, case):
                old.unlink()
            _write_aside(path, content)
        return len(content)

    def state(self, stage: str, case: str, device: torch.device) -> dict[str, Tensor]:
        """The hidden states that a unit handed on, by stream."""
        with self.reading(stage, case) as file:
            names = [name for name in file.keys() if name.startswith("state/")]  # noqa: SIM118
            return {name.partition("/")[2]: file.get_tensor(name).to(device) for name in names}

    @contextlib.contextmanager
    def reading(self, stage: str, case: str) -> Iterator[Any]:
        """A unit's file, open for reading.

        Raises:
            RecordError: it is not what was written.
        """
        found = self._found(stage, case)
        if len(found) != 1 or not _is_sound(found[0]):
            raise RecordError(
                "a unit of the work in progress is missing or damaged",
                where=self.directory / "units" / stage / case,
                expected="one file that has the sha256 in its name",
                found=f"{len(found)} files",
                hint="run the same command again: it does that unit anew, and goes on",
            )
        with safe_open(found[0], framework="pt") as file:
            yield file

    def _found(self, stage: str, case: str) -> list[Path]:
        """The files of a unit: one, or none."""
        return [*(self.directory / "units" / stage).glob(f"{case}.{'[0-9a-f]' * 64}.safetensors")]


def _is_sound(path: Path) -> bool:
    """Whether a unit's file has the sha256 in its name."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == path.name.split(".")[1]


def _write_aside(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, whenever this process ends."""
    aside = path.with_name(f"{path.name}.tmp")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)  # noqa: PTH105 - named for what it does: atomic
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _writing(where: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unwritable(where, error) from None


def _unwritable(where: Path, error: OSError) -> RecordError:
    return RecordError(
        f"the work in progress cannot be written: {error.strerror or error}",
        where=where,
        hint="make room there, or make it writable, and run the same command: it goes on where it stopped",
    )
