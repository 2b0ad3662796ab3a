"""A diagnosis as plain data: for every wrong operation the evidence, then the name, then what was near."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.report.document import GoldenReference


@dataclass(frozen=True)
class Fact:
    """One piece of evidence: what it is about, and what it says."""

    topic: str
    text: str


@dataclass(frozen=True)
class Suspect:
    """A known bug, or two at once, held against the port on the same golden inputs.

    Attributes:
        mutants: ids of the catalogue.
        value: the value, or the form, that fits best, where it is not the catalogue's own.
        wrong, right: the formulas, one for each mutant.
        seen: threads that report the bug.
        line: where the built-in decoder does it right, `harness/run/operations.py:76`.
        kinds: the wrong taps that it reproduces.
        explained: the share of the port's squared error that it explains, at the tap where it explains least.
        rms_multiple: the port's distance from it, in noise multiples (in float64: half-ulps).
        remark: where the port's bug is narrower than the catalogue's; of one that is not named, why it is not.
    """

    mutants: tuple[str, ...]
    value: str
    wrong: tuple[str, ...]
    right: tuple[str, ...]
    seen: tuple[str, ...]
    line: str
    kinds: tuple[str, ...]
    explained: float
    rms_multiple: float | None
    remark: str | None = None


@dataclass(frozen=True)
class Operation:
    """One wrong operation.

    Attributes:
        kinds: the taps at which it shows, without their layers.
        taps: with them, in data-flow order.
        precision: at which the port was compared with the known bugs.
        facts: the evidence.
        named: what reproduces the port within the noise. Several cannot be told apart on these inputs; none means
            that the bug is not in the catalogue, and that the evidence is all there is.
        others: what came nearest of the rest, best first.
        tried: how many candidates were compared.
        built_in: the port computes what the built-in decoder computes. Nothing is named: golden and config, or
            checkpoint, are at odds.
    """

    kinds: tuple[str, ...]
    taps: tuple[str, ...]
    precision: str
    facts: tuple[Fact, ...]
    named: tuple[Suspect, ...]
    others: tuple[Suspect, ...]
    tried: int
    built_in: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a port.

    Attributes:
        precision: at which its values were compared with the mutants'; None where nothing was wrong in replay.
        cases: on which.
        facts: evidence about the port as a whole.
        precisions: at which it was checked.
        unexplained: introduced taps of which no operation says anything: wrong in no case that this port can
            replay, or at no precision at which it was looked at.
        not_covered: what the check says nothing about, and why.
    """

    schema: Literal[1]
    kind: Literal["diagnosis"]
    golden: GoldenReference
    port: str
    verdict: Literal["match", "diverged"]
    precision: str | None
    cases: tuple[str, ...]
    facts: tuple[Fact, ...]
    operations: tuple[Operation, ...]
    precisions: tuple[str, ...] = ()
    unexplained: tuple[str, ...] = ()
    not_covered: tuple[str, ...] = ()


def verdict_line(operation: Operation, precision: str) -> str:
    """The name in one line, or that there is none."""
    if operation.built_in:
        return "the built-in decoder computes the same: golden and config, or checkpoint, are at odds"
    if not operation.named:
        return f"none of {operation.tried} known bugs, values and pairs reproduces it: rest on the evidence"
    ids = [suspect_name(suspect) for suspect in operation.named]
    first = operation.named[0]
    unit = "half-ulps" if precision == "float64" else "x noise"
    noise = f"to {first.rms_multiple:.2g} {unit}" if first.rms_multiple else "to the last bit"
    if len(ids) > 1:
        return f"{' or '.join(ids)}: the same on these inputs; this port reproduces them {noise}"
    return f"{ids[0]}: this port reproduces that bug {noise}"


def known_as(operation: Operation) -> tuple[str, ...]:
    """What the first name stands for: wrong and right formulas, and where it was seen; nothing without a name."""
    if not operation.named:
        return ()
    first = operation.named[0]
    pairs = zip(first.wrong, first.right, strict=True)
    formulas = [line for wrong, right in pairs for line in (f"wrong: {wrong}", f"right: {right}")]
    return (*formulas, *(f"seen in {url}" for url in first.seen[:2]))


def suspect_name(suspect: Suspect) -> str:
    name = " + ".join(suspect.mutants)
    return f"{name} ({suspect.value})" if suspect.value else name
