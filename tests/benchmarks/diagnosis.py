"""The README's figures on diagnosis: every bug of the second port, named or not.

    python -m tests.benchmarks.diagnosis [--bug GLOB] [--precision float64,float32,bfloat16] [--markdown]

A bug of the catalogue is right where the first name is its own, and among where another of those is that cannot be
told apart; one of no catalogue is right where there is no name. Each precision is measured by itself. One line a
bug as it is done, on stderr; the figures on stdout.
"""

from __future__ import annotations

import fnmatch
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from harness import embedded
from harness.errors import PortError
from harness.mutants.diagnosis.diagnose import diagnose
from harness.report.diagnosis import Diagnosis, suspect_name
from harness.run.check import Checker
from harness.run.question import Question
from tests.second_port.bugs import BUGS, Bug
from tests.second_port.fresh_bugs import FRESH
from tests.second_port.later_bugs import LATER

CASES = ("hello", "one-to-five", "multi-token")
WITH_CACHE = ("one-to-five", "decode", "chunked")
# The search was changed after each set had first been tried; what it said at first sight is in the bugs' modules.
SETS = (("before the search", BUGS), ("after it", LATER), ("last", FRESH))
RIGHT, AMONG, NO_NAME, WRONG = "right", "among", "no name", "WRONG NAME"


@dataclass(frozen=True)
class Outcome:
    """What was said about one bug.

    Attributes:
        names: by operation that was given one, in data-flow order, all names that could not be told apart; mutants
            joined by +.
        said: all of it in words.
        seconds: of check and diagnosis together.
    """

    bug: Bug
    names: tuple[tuple[str, ...], ...]
    said: str
    seconds: float

    @property
    def word(self) -> str:
        if not self.names:
            return NO_NAME
        if all(same(alike[0], self.bug.catalogue) for alike in self.names):
            return RIGHT
        among = all(any(same(name, self.bug.catalogue) for name in alike) for alike in self.names)
        return AMONG if among else WRONG

    @property
    def alike(self) -> int:
        """How many names of the first operation could not be told apart."""
        return len(self.names[0]) if self.names else 0


def same(name: str, catalogue: str | None) -> bool:
    """Whether a name is the catalogue's, in whatever order where it is of two mutants."""
    return catalogue is not None and set(name.split("+")) == set(catalogue.split("+"))


def diagnosed(bug: Bug, golden: Path, checkpoint: Path, precision: str) -> Diagnosis:
    """The diagnosis of one bug of the second port."""
    question = Question((precision,), modes=("replay",), cases=WITH_CACHE if bug.cached else CASES)
    with Checker(golden, checkpoint, bug.name, question, load=bug.load) as checker:
        return diagnose(checker, bug.name)


def outcome(bug: Bug, golden: Path, checkpoint: Path, precision: str) -> Outcome:
    """What is said, and how long it takes to say it."""
    start = time.perf_counter()
    try:
        found = diagnosed(bug, golden, checkpoint, precision)
    except PortError as error:  # a bug made of an operation that JAX does not have at this precision
        return Outcome(bug, (), f"cannot run: {error.problem}", time.perf_counter() - start)
    seconds = time.perf_counter() - start
    named = [operation.named for operation in found.operations if operation.named]
    if found.verdict == "match":
        said = "nothing is wrong at this precision"
    elif not named:
        near = [suspect_name(s) for operation in found.operations for s in operation.others]
        said = f"nearest: {near[0]}" if near else "nothing near"
    else:
        said = "; ".join(" or ".join(map(suspect_name, suspects)) for suspects in named)
    names = tuple(tuple("+".join(suspect.mutants) for suspect in suspects) for suspects in named)
    return Outcome(bug, names, said, seconds)


def confusions(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, str, str]]:
    """(planted, named, bugs): what was confused with what, and what was not found."""
    seen: dict[tuple[str, str], list[str]] = {}
    for o in outcomes:
        planted, named = (
            o.bug.catalogue or "(in no catalogue)",
            "; ".join(map(" or ".join, o.names)) or "(no name)",
        )
        if o.word in (AMONG, WRONG) or (o.word == NO_NAME and o.bug.catalogue is not None):
            seen.setdefault((planted, named), []).append(o.bug.name)
    for (planted, named), bugs in seen.items():
        yield planted, named, ", ".join(bugs)


@dataclass(frozen=True)
class Figures:
    """One set of bugs at one precision."""

    precision: str
    title: str
    outcomes: tuple[Outcome, ...]

    HEADER = (
        "precision",
        "bugs written",
        "right first",
        "among",
        "wrong name",
        "in a set of two or more",
        "named, of no catalogue",
        "s each",
    )

    def row(self) -> tuple[str, ...]:
        known = [o for o in self.outcomes if o.bug.catalogue is not None]
        unknown = [o for o in self.outcomes if o.bug.catalogue is None]
        right = [o for o in known if o.word == RIGHT]
        return (
            self.precision,
            self.title,
            f"{len(right)} of {len(known)}",
            str(sum(o.word == AMONG for o in known)),
            str(sum(o.word == WRONG for o in self.outcomes)),
            str(sum(o.alike > 1 for o in right)),
            f"{sum(bool(o.names) for o in unknown)} of {len(unknown)}",
            f"{statistics.median(o.seconds for o in self.outcomes):.1f}",
        )


def lines(rows: Sequence[Sequence[str]], markdown: bool) -> Iterator[str]:
    """A table: the first row is its head."""
    if markdown:
        for index, row in enumerate(rows):
            yield f"| {' | '.join(row)} |"
            if index == 0:
                yield "|" + "---|" * len(row)
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


@click.command()
@click.option("--bug", "globs", multiple=True, default=("*",), metavar="GLOB", help="Only these; may be repeated.")
@click.option("--precision", default="float64,float32", help="Comma-separated; each is measured by itself.")
@click.option("--markdown", is_flag=True, help="The tables as Markdown.")
def main(globs: tuple[str, ...], precision: str, markdown: bool) -> None:
    golden, checkpoint = embedded.golden(), embedded.directory() / "qwen2-tiny"
    figures = []
    for chosen in precision.split(","):
        for title, bugs in SETS:
            outcomes = []
            for bug in (bug for bug in bugs if any(fnmatch.fnmatchcase(bug.name, glob) for glob in globs)):
                last = outcome(bug, golden, checkpoint, chosen)
                outcomes.append(last)
                click.echo(
                    f"{chosen}  {last.word:10}  {bug.name:32}  {last.said}  ({last.seconds:.1f} s)", err=True
                )
            if outcomes:
                figures.append(Figures(chosen, title, tuple(outcomes)))
    for line in lines([Figures.HEADER, *(f.row() for f in figures)], markdown):
        click.echo(line)
    confused = [(f.precision, *row) for f in figures for row in confusions(f.outcomes)]
    if confused:
        click.echo()
        for line in lines([("precision", "planted", "named", "bugs"), *confused], markdown):
            click.echo(line)


if __name__ == "__main__":
    main()
