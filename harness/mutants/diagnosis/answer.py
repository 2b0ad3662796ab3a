"""What a search says about one wrong operation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.mutants.diagnosis.hypothesis import Hypothesis

# One that explains less of the error than this is not near; nor are two that explain less than most of it.
WORTH_SAYING, MOST = 0.01, 0.5
# What is nearly as near as the nearest: rounding decides between them.
NEARLY = 1.5
# Of equally good explanations a wrong value comes before a wrong formula, and that before a wrong arithmetic.
PLAUSIBLE = ("option", "config", "weight", "call", "operation", "numerics")


@dataclass(frozen=True, eq=False)
class Explanation:
    """A hypothesis that reproduces the port.

    Attributes:
        kinds: the faulty kinds that it reproduces in every replay.
        value: the hypothesis's value, layer by layer where every layer has its own.
        rms: the port's largest distance from it there, in noise multiples.
        explained: the smallest share of the port's squared error that it explains there.
        beyond: kinds at which the catalogue's mutant is wrong as well, and the port is not, or is otherwise.
        every_layer: no layer is right in which it would be wrong.
        only: the sorts of calls in which the port has it, where it is right in others; empty otherwise.
        elsewhere: those others.
    """

    hypothesis: Hypothesis
    kinds: frozenset[str]
    value: str
    rms: float
    explained: float
    beyond: frozenset[str]
    every_layer: bool
    only: frozenset[str]
    elsewhere: frozenset[str]


@dataclass(frozen=True, eq=False)
class Ranked:
    """A hypothesis that does not reproduce the port, how much of the error it explains, and why it is not it.

    Attributes:
        reason: empty where that share says it.
    """

    hypothesis: Hypothesis
    explained: float
    value: str
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Answer:
    """What was found about the first faulty kind.

    Attributes:
        kind: the tap, without its layer, that was to be explained.
        named: hypotheses that reproduce the port and cannot be told apart on these inputs; none, where none does.
        others: the nearest of the rest, best first.
        tried: how many hypotheses were compared.
        built_in: the port computes what the built-in decoder computes, which is right: nothing is to be named.
    """

    kind: str
    named: tuple[Explanation, ...]
    others: tuple[Ranked, ...]
    tried: int
    built_in: bool = False


def indistinguishable(explanations: Sequence[Explanation], sure: float) -> tuple[Explanation, ...]:
    """The best explanations, all that are equally good: they explain most and claim least beyond it.

    Those nearer to the port than `sure`, in noise multiples, or nearly as near as the nearest, come first.

    A fitted value that does as well as the catalogue as it is only imitates it.
    """

    near = max(sure, NEARLY * min(e.rms for e in explanations))

    def quality(e: Explanation) -> tuple[bool, int, int, bool, int]:
        return e.rms > near, -len(e.kinds), len(e.beyond), not e.every_layer, len(e.elsewhere)

    best = min(map(quality, explanations))
    equal = [e for e in explanations if quality(e) == best]
    equal = [e for e in equal if not e.hypothesis.value] or equal
    ranked = sorted(equal, key=lambda e: (PLAUSIBLE.index(e.hypothesis.mutants[0].kind), e.rms))
    nearest: dict[frozenset[str], Explanation] = {}
    for explanation in ranked:  # of the same mutants with several values, the nearest
        nearest.setdefault(frozenset(explanation.hypothesis.ids), explanation)
    return tuple(nearest.values())


def ranking(others: Iterable[Ranked], most: int = 3) -> tuple[Ranked, ...]:
    """The best of the others; of one mutant, with whatever value, only the best.

    Two at once are near where they explain most of the error, and more of it than one of them does.
    """
    best: dict[tuple[str, ...], Ranked] = {}
    for entry in sorted(others, key=lambda r: (-r.explained, len(r.hypothesis.mutants))):
        ids = entry.hypothesis.ids
        near = entry.explained > (WORTH_SAYING if len(ids) == 1 else MOST)
        if near:
            best.setdefault(ids, entry)
    singles = {r.hypothesis.ids[0]: r.explained for i, r in best.items() if len(i) == 1}
    kept = [r for i, r in best.items() if len(i) == 1 or not _adds_little(r, singles)]
    return tuple(kept[:most])


def _adds_little(pair: Ranked, singles: Mapping[str, float]) -> bool:
    """Whether one of two explains nearly as much as both."""
    alone = [singles[i] for i in pair.hypothesis.ids if i in singles]
    return any(pair.explained - share < MOST * (1 - share) for share in alone)
