"""The process that checks a port at a git revision. `harness.run.revision` starts it; see there."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

import msgspec

from harness.errors import HarnessError, PortError
from harness.report.document import encode
from harness.run.check import check
from harness.run.port import find_port
from harness.run.revision import Refusal, Task, is_of_environment


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
        task.refusal.write_bytes(msgspec.json.encode(_refusal(error)))
        sys.exit(2)


def _refusal(error: HarnessError) -> Refusal:
    facts = (error.problem, error.where, error.expected, error.found, error.hint)
    return Refusal(error.kind().__name__, *facts)


def _report(task: Task) -> object:
    _find(task)
    _refuse_strangers(task)
    report = check(task.golden, task.weights, task.spec, task.question)
    _refuse_strangers(task)  # what the port imported while it ran
    return report


def _find(task: Task) -> None:
    try:
        find_port(task.spec)
    except PortError as error:
        raise PortError(
            error.problem,
            where=error.where,
            expected="the port, at that revision",
            found=error.found,
            hint="if it had another name there, say so: git:REV:package.module:Name",
        ) from error


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
    found = [file] if file else list(getattr(module, "__path__", ()))
    return [Path(place).resolve() for place in found if isinstance(place, str)]
