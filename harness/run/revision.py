"""A port as it stands at a git revision: checked in a temporary worktree, by a process of its own.

The process runs *this* harness: only what lies in the repository, and is not installed, is the revision's.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

import harness
from harness import errors
from harness.errors import PortError, UsageError
from harness.report.document import Report
from harness.report.reading import read_report
from harness.run.question import Question
from harness.run.worktree import Revision, worktree

# The harness is imported from where it is installed before the revision's own paths are in force, so that a
# `harness` folder in the worktree cannot take its place.
BOOTSTRAP = """
import json, sys
with open(sys.argv[1]) as file:
    task = json.load(file)
sys.path.insert(0, task["harness"])
import harness
sys.path[:] = task["path"]
from harness.run.revision_process import main
main(sys.argv[1])
"""


@dataclass(frozen=True)
class Task:
    """What the process at the revision is told.

    Attributes:
        path: its `sys.path`.
        harness: the folder that this harness is imported from.
        outside: folders inside the repository that do not belong to the revision: environments, this harness.
        result, refusal: the files that it writes, one or the other.
    """

    spec: str
    golden: str
    weights: Path
    question: Question
    repository: Path
    worktree: Path
    path: tuple[str, ...]
    harness: Path
    outside: tuple[Path, ...]
    result: Path
    refusal: Path


@dataclass(frozen=True)
class Refusal:
    """A `HarnessError` on its way from one process to another."""

    kind: str
    problem: str
    where: str | None
    expected: str | None
    found: str | None
    hint: str


def check_at(revision: Revision, spec: str, golden: str, weights: Path, question: Question) -> Report:
    """Check a port as it stands at a revision.

    Args:
        golden: a URL or an absolute path.
        weights: an absolute path; they are read from there, whatever the revision.

    Raises:
        HarnessError: what the check refuses; the port does not exist at that revision, or what was imported is
            not of that revision.
    """
    with tempfile.TemporaryDirectory(prefix="goldens-") as scratch, worktree(revision, Path(scratch)) as tree:
        directory = tree / revision.directory
        if not directory.is_dir():
            raise UsageError(
                "the current directory does not exist at that revision",
                where=f"git:{revision.name} ({revision.sha[:12]})",
                expected=f"{revision.directory}/",
                hint="run the command from the top of the repository",
            )
        installed = Path(harness.__file__).resolve().parent
        task = Task(
            spec=spec,
            golden=golden,
            weights=weights,
            question=question,
            repository=revision.root,
            worktree=tree,
            path=paths_at(spec, revision.root, tree),
            harness=installed.parent,
            outside=(*_environments(), installed),
            result=Path(scratch).resolve() / "report.json",
            refusal=Path(scratch).resolve() / "refusal.json",
        )
        file = Path(scratch) / "task.json"
        file.write_bytes(msgspec.json.encode(task, enc_hook=str))
        done = subprocess.run([sys.executable, "-P", "-c", BOOTSTRAP, str(file)], cwd=directory, check=False)
        return _outcome(task, done.returncode)


def is_of_environment(path: Path, outside: Sequence[Path]) -> bool:
    """Whether a path is installed, and not part of what the repository holds."""
    return "site-packages" in path.parts or any(path.is_relative_to(folder) for folder in outside)


def paths_at(spec: str, repository: Path, tree: Path) -> tuple[str, ...]:
    """This process's `sys.path`, with what lies in the repository moved to the worktree.

    The folder of the port's own package comes first: an editable install may find it without any `sys.path`.
    """

    def moved(entry: str | Path) -> str:
        path = Path(entry).resolve()
        if path.is_relative_to(repository) and not is_of_environment(path, _environments()):
            return str(tree / path.relative_to(repository))
        return str(entry)

    entries: list[str | Path] = [*_folder_of(spec), *(entry for entry in sys.path if entry)]
    return tuple(dict.fromkeys(moved(entry) for entry in entries))


def _environments() -> tuple[Path, ...]:
    return tuple(dict.fromkeys(Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)))


def _folder_of(spec: str) -> Iterator[Path]:
    """The folder that the port's top-level package is imported from here, if it can be imported here at all."""
    package = spec.partition(":")[0].partition(".")[0]
    try:
        found = importlib.util.find_spec(package) if package else None
    except ValueError:  # a module that was not imported, such as __main__
        return
    if found is not None and found.submodule_search_locations:
        yield from (Path(location).parent for location in found.submodule_search_locations)
    elif found is not None and found.has_location and found.origin:
        yield Path(found.origin).parent


def _outcome(task: Task, code: int) -> Report:
    if task.refusal.exists():
        refusal = msgspec.json.decode(task.refusal.read_bytes(), type=Refusal)
        kind: type[errors.HarnessError] = getattr(errors, refusal.kind)
        raise kind(
            refusal.problem,
            where=refusal.where,
            expected=refusal.expected,
            found=refusal.found,
            hint=refusal.hint,
        )
    if code != 0 or not task.result.exists():
        raise PortError(
            "the process that ran the port ended without a result",
            where=task.spec,
            found=f"exit code {code}",
            hint="its own messages are above",
        )
    report = read_report(task.result)
    assert isinstance(report, Report)
    return report
