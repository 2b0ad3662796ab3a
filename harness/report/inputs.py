"""An output that is an input would destroy it: refused before anything runs, also behind a link."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.errors import UsageError
from harness.report.output import STDOUT

Input = str | Path | None


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
            what = _holds(folder)
            if what == "a Zarr golden" or (what and folder == path.resolve().parent):
                raise _refused(option, path, what, folder)


def _refused(option: str, path: Path, name: str, given: Path) -> UsageError:
    return UsageError(
        "an output is an input: writing it would destroy what is read",
        where=f"--{option} {path}",
        expected="a file of its own",
        found=f"{name}: {given}",
        hint=f"name another file: --{option} FILE",
    )


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
    found = (file.stat() for file in folder.rglob("*") if file.is_file())
    return any((one.st_dev, one.st_ino) == (own.st_dev, own.st_ino) for one in found)


def _holds(folder: Path) -> str | None:
    """What a folder is, where nothing may be added to it."""
    if (folder / "zarr.json").is_file():
        return "a Zarr golden"
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        return "a checkpoint"
    return None
