"""The README's figures on diagnosis: every bug of the second port, named or not.

    python -m tests.benchmarks.diagnosis [--bug GLOB] [--precision float64,float32]

A bug of the catalogue is right where the first name is its own; one of no catalogue where there is none.
"""

from __future__ import annotations

import fnmatch
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from harness import embedded
from harness.mutants.diagnosis.diagnose import diagnose
from harness.report.diagnosis import Diagnosis, suspect_name
from harness.run.checker import Checker
from harness.run.question import Question
from tests.second_port.bugs import BUGS, Bug
from tests.second_port.later_bugs import LATER

CASES = ("hello", "one-to-five", "multi-token")
WITH_CACHE = ("one-to-five", "decode", "chunked")


@dataclass(frozen=True)
class Outcome:
    """What was said about one bug.

    Attributes:
        first: the first name, mutants joined by +; None where none was given.
        alike: how many names could not be told apart.
    """

    bug: Bug
    first: str | None
    alike: int
    said: str
    seconds: float

    @property
    def word(self) -> str:
        if self.bug.catalogue is None:
            return "no name" if self.first is None else "WRONG NAME"
        if self.first is None:
            return "no name"
        right = set(self.first.split("+")) == set(self.bug.catalogue.split("+"))
        return "right" if right else "WRONG NAME"


def diagnosed(bug: Bug, golden: Path, checkpoint: Path, precisions: tuple[str, ...]) -> Diagnosis:
    """The diagnosis of one bug of the second port."""
    question = Question(precisions, modes=("replay",), cases=WITH_CACHE if bug.cached else CASES)
    with Checker(golden, checkpoint, bug.name, question, load=bug.load) as checker:
        return diagnose(checker, bug.name)


def outcome(bug: Bug, golden: Path, checkpoint: Path, precisions: tuple[str, ...]) -> Outcome:
    """What is said first, and how long it takes to say it."""
    start = time.perf_counter()
    found = diagnosed(bug, golden, checkpoint, precisions)
    seconds = time.perf_counter() - start
    named = [operation.named for operation in found.operations if operation.named]
    if not named:
        near = [suspect_name(s) for operation in found.operations for s in operation.others]
        return Outcome(bug, None, 0, f"nearest: {near[0]}" if near else "nothing near", seconds)
    said = "; ".join(" or ".join(map(suspect_name, suspects)) for suspects in named)
    return Outcome(bug, "+".join(named[0][0].mutants), len(named[0]), said, seconds)


@click.command()
@click.option("--bug", "glob", default="*", help="Only these bugs.")
@click.option("--precision", default="float64,float32", help="Comma-separated.")
def main(glob: str, precision: str) -> None:
    console = Console(width=150)
    precisions = tuple(precision.split(","))
    golden, checkpoint = embedded.golden(), embedded.directory() / "qwen2-tiny"
    for title, bugs in (("written before the search", BUGS), ("written after it", LATER)):
        outcomes = []
        for bug in bugs:
            if fnmatch.fnmatchcase(bug.name, glob):
                outcomes.append(outcome(bug, golden, checkpoint, precisions))
                last = outcomes[-1]
                console.print(
                    f"{last.word:10}  {bug.name:32}  {last.said}  ({last.seconds:.1f} s)", highlight=False
                )
        if outcomes:
            summary(title, outcomes, console)


def summary(title: str, outcomes: Sequence[Outcome], console: Console) -> None:
    """The figures of one set of bugs, and what was confused with what."""
    known = [o for o in outcomes if o.bug.catalogue is not None]
    unknown = [o for o in outcomes if o.bug.catalogue is None]
    console.print(f"\n{title}")
    console.print(f"  in the catalogue: {sum(o.word == 'right' for o in known)} of {len(known)} named right first")
    console.print(f"  of these in a set of two or more: {sum(o.word == 'right' and o.alike > 1 for o in known)}")
    console.print(f"  in no catalogue: {sum(o.first is not None for o in unknown)} of {len(unknown)} given a name")
    console.print(f"  median {statistics.median(o.seconds for o in outcomes):.1f} s a diagnosis")
    confusion = Counter((o.bug.catalogue or "(none)", o.first or "(none)") for o in outcomes if o.word != "right")
    table = Table("planted", "named", "times", box=None)
    for (planted, named), times in confusion.items():
        if planted != named:
            table.add_row(planted, named, str(times))
    if table.rows:
        console.print("\n  what was confused with what", table)
    console.print()


if __name__ == "__main__":
    main()
