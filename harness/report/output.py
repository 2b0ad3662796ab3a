"""Files that a command writes, whole or not at all: refused first if they are read, or could not be written."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from harness.errors import UsageError

STDOUT = Path("-")
Input = str | Path | None


def check_outputs(paths: Mapping[str, Path]) -> None:
    """Refuse outputs that could not all be written. Keys are the options' names, without dashes.

    Raises:
        UsageError: as `check_output`, or two of them go to one place.
    """
    taken: dict[tuple[object, ...], str] = {}
    for option, path in paths.items():
        check_output(path)
        place = _place(path)
        if place in taken:
            problem, where = "two outputs go to one place", f"--{taken[place]} and --{option}"
            expected = "a file for each; only one of them can go to - (stdout)"
            raise UsageError(problem, where, expected, path, hint=f"name another file: --{option} FILE")
        taken[place] = option


def _place(path: Path) -> tuple[object, ...]:
    """What is one for two paths of one file: its inode, or where it will be."""
    if path != STDOUT and path.exists():
        stat = path.stat()
        return stat.st_dev, stat.st_ino
    return (path if path == STDOUT else path.resolve(),)


def check_output(path: Path) -> None:
    """Refuse an output that could not be written, before minutes are spent on it.

    Raises:
        UsageError: the folder does not exist or cannot be written to, or the path is no ordinary file.
    """
    if path == STDOUT:
        return
    folder = path.parent
    if path.exists() and not path.is_file():  # renaming a file over a device or a pipe would replace it
        problem, expected = "the output cannot be written", "an ordinary file, or one that does not exist yet"
        found = "a folder" if path.is_dir() else "a device or a pipe"
        raise UsageError(problem, path, expected, found, hint="name a file, or - for stdout")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        expected = "a file in a folder that exists and can be written to"
        hint = f"create the folder: mkdir -p {folder}"
        raise UsageError("the output cannot be written", path, expected, hint=hint)


def refuse_inputs(outputs: Mapping[str, Path], inputs: Mapping[str, Input]) -> None:
    """Refuse outputs that are inputs, or lie where an input lies.

    Args:
        outputs: by option, without dashes.
        inputs: what the command reads, by what a message calls it; None and URLs are nobody's output.

    Raises:
        UsageError: an output is an input file, by whatever path or link; or it lies inside a checkpoint or a Zarr
            golden, where a new file would be read as part of it.
    """
    known = {name: path for name, given in inputs.items() if (path := _local(given)) is not None}
    for option, path in outputs.items():
        if path == STDOUT:
            continue
        for name, given in known.items():
            if _is_same(path, given) or _is_in(path, given):
                raise _refused(option, path, name, given)
        for folder in path.resolve().parents:
            kind = _holds(folder)
            if kind == "a Zarr golden" or (kind and folder == path.resolve().parent):
                raise _refused(option, path, kind, folder)


def _refused(option: str, path: Path, name: str, given: Path) -> UsageError:
    problem = "an output is an input: writing it would destroy what is read"
    hint = f"name another file: --{option} FILE"
    return UsageError(problem, f"--{option} {path}", "a file of its own", f"{name}: {given}", hint=hint)


def _local(given: Input) -> Path | None:
    if given is None or ("://" in str(given) and not str(given).startswith("file://")):
        return None
    return Path(str(given).removeprefix("file://"))


def _is_same(path: Path, given: Path) -> bool:
    """Whether two paths are one file: one name once links are followed, or one inode."""
    try:
        return path.resolve() == given.resolve() or path.samefile(given)
    except OSError:
        return False  # one of them does not exist


def _is_in(path: Path, folder: Path) -> bool:
    """Whether a path is one of a folder's files, by whatever link."""
    if not folder.is_dir() or not path.exists():
        return False
    own = path.stat()
    stats = (file.stat() for file in folder.rglob("*") if file.is_file())
    return any((stat.st_dev, stat.st_ino) == (own.st_dev, own.st_ino) for stat in stats)


def _holds(folder: Path) -> str | None:
    """What a folder is, where nothing may be added to it."""
    if (folder / "zarr.json").is_file():
        return "a Zarr golden"
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        return "a checkpoint"
    return None


def write_output(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; `-` is stdout.

    Raises:
        UsageError: it cannot be written; what was there before is still there.
    """
    if path == STDOUT:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        problem = f"the output could not be written: {error.strerror}"
        raise UsageError(problem, path, hint="free some space or choose another place") from None
