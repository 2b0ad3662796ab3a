"""A port as it stands at a git revision: checked in a temporary worktree, by a process of its own.

The process (`main`) runs *this* harness: only what lies in the repository, and is not installed, is the
revision's. It alone needs jax.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import msgspec

import harness
from harness import errors
from harness.errors import HarnessError, PortError, UsageError
from harness.report.document import Report, encode
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
from harness.run.revision import main
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
            problem, expected = "the current directory does not exist at that revision", f"{revision.directory}/"
            hint = "run the command from the top of the repository"
            raise UsageError(problem, f"git:{revision.name} ({revision.sha[:12]})", expected, hint=hint)
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
        package_spec = importlib.util.find_spec(package) if package else None
    except ValueError:  # a module that was not imported, such as __main__
        return
    if package_spec is not None and package_spec.submodule_search_locations:
        yield from (Path(location).parent for location in package_spec.submodule_search_locations)
    elif package_spec is not None and package_spec.has_location and package_spec.origin:
        yield Path(package_spec.origin).parent


def _outcome(task: Task, code: int) -> Report:
    if task.refusal.exists():
        kind, problem, facts = msgspec.json.decode(task.refusal.read_bytes())
        raise getattr(errors, kind)(problem, **facts)
    if code != 0 or not task.result.exists():
        problem = "the process that ran the port ended without a result"
        raise PortError(problem, task.spec, found=f"exit code {code}", hint="its own messages are above")
    report = read_report(task.result)
    assert isinstance(report, Report)
    return report


def main(file: str) -> None:
    """Run the task in the file: write its report, or why there is none."""
    os.dup2(2, 1)  # a port that prints must not write into the data on stdout
    task = msgspec.json.decode(Path(file).read_bytes(), type=Task, dec_hook=lambda kind, value: kind(value))
    try:
        task.result.write_bytes(encode(_report(task)))
    except KeyboardInterrupt:
        sys.exit(130)
    except HarnessError as error:
        if os.environ.get("GOLDENS_TRACEBACK"):
            traceback.print_exc()
        facts = {name: getattr(error, name) for name in ("where", "expected", "found", "hint")}
        task.refusal.write_bytes(msgspec.json.encode((error.kind().__name__, error.problem, facts)))
        sys.exit(2)


def _report(task: Task) -> object:
    from harness.run.check import check
    from harness.run.loading import find_port

    try:
        find_port(task.spec)
    except PortError as error:
        error.expected = "the port, at that revision"
        error.hint = "if it had another name there, say so: git:REV:package.module:Name"
        raise
    _refuse_strangers(task)
    report = check(task.golden, task.weights, task.spec, task.question)
    _refuse_strangers(task)  # what the port imported while it ran
    return report


def _refuse_strangers(task: Task) -> None:
    """Refuse a port that is not the revision's own.

    Raises:
        PortError: its module, or one that it imports, comes from the user's checkout or from elsewhere.
    """
    name = task.spec.partition(":")[0]
    for place in _places(sys.modules[name]):
        if not place.is_relative_to(task.worktree):
            raise PortError(
                "the port was not imported from the revision",
                where=f"module {name}",
                expected="a file of the repository, as it stands at that revision",
                found=place,
                hint="a git: side needs a port that lies in this repository; "
                "for an installed one save a check of each version with goldens check --json",
            )
    for name, module in list(sys.modules.items()):
        for place in _places(module):
            of_checkout = place.is_relative_to(task.repository) and not place.is_relative_to(task.worktree)
            if of_checkout and not is_of_environment(place, task.outside):
                raise PortError(
                    "the port imports a module of the checkout instead of the revision's",
                    where=f"module {name}",
                    expected="a file of the repository, as it stands at that revision",
                    found=place,
                    hint="it is on the path by other means than sys.path, such as an editable install: "
                    "run from the folder that holds the package",
                )


def _places(module: ModuleType) -> list[Path]:
    """The file of a module, or the folders of a package without one."""
    file = getattr(module, "__file__", None)
    places = [file] if file else list(getattr(module, "__path__", ()))
    return [Path(place).resolve() for place in places if isinstance(place, str)]
