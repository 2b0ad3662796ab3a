"""A possible explanation, one mutant, one with a fitted value, or two at once; how well it explains a replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from harness.mutants.diagnosis.replay import StageReplay, sort_of
from harness.mutants.mutant import Change, Mutant, OperationChange

Sorts = Mapping[str, frozenset[str]]


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """Mutants, and how they are planted here.

    Attributes:
        mutants: as the catalogue has them.
        wrong: what a port with them computes, one for each: with the value that is planted here.
        changes: what is planted: the mutants' own changes, or one of them with another value.
        value: the fitted value in words, `theta = 123456`; empty where the change is the catalogue's own.
    """

    mutants: tuple[Mutant, ...]
    changes: tuple[Change, ...]
    value: str = ""
    wrong: tuple[str, ...] = ()

    @classmethod
    def of(cls, mutant: Mutant) -> Hypothesis:
        return cls((mutant,), (mutant.change,), wrong=(mutant.wrong,))

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(mutant.id for mutant in self.mutants)

    @property
    def introduced(self) -> frozenset[str]:
        return frozenset().union(*(mutant.introduced for mutant in self.mutants))

    def layers(self, count: int) -> frozenset[int]:
        """The layers in which the catalogue has it."""
        return frozenset().union(*(mutant.in_layers(count) for mutant in self.mutants))

    def in_prompts(self) -> Hypothesis:
        """What of it there is without a cache."""
        kept = [n for n, mutant in enumerate(self.mutants) if not mutant.cached]
        if len(kept) == len(self.mutants):
            return self
        return replace(
            self, mutants=tuple(self.mutants[n] for n in kept), changes=tuple(self.changes[n] for n in kept)
        )

    def together(self, other: Hypothesis) -> Hypothesis | None:
        """Both at once; None where they replace the same operation, or are one mutant."""
        operations = [c for c in (*self.changes, *other.changes) if isinstance(c, OperationChange)]
        fields = [set(c.formulas()) for c in operations]
        overlap = len(set().union(*fields)) < sum(map(len, fields))
        if overlap or set(self.ids) & set(other.ids):
            return None
        value = ", ".join(filter(None, (self.value, other.value)))
        wrong = (*self.wrong, *other.wrong)
        return Hypothesis((*self.mutants, *other.mutants), (*self.changes, *other.changes), value, wrong)


NOTHING = Hypothesis((), ())


@dataclass(frozen=True)
class Match:
    """A hypothesis against one replay.

    Attributes:
        reproduced: faulty kinds at which the port computes what the hypothesis computes, within the noise.
        unexplained: faulty kinds at which it does not.
        overreached: kinds at which the hypothesis is wrong and the port is right.
        elsewhere: by kind, sorts of calls in which the port is right everywhere, and the hypothesis is not.
        explained: by faulty kind, the share of the port's squared error that the hypothesis explains; at most 1.
        rms: by faulty kind, the port's distance from the hypothesis in noise multiples.
    """

    reproduced: frozenset[str]
    unexplained: frozenset[str]
    overreached: frozenset[str]
    elsewhere: Sorts
    explained: Mapping[str, float]
    rms: Mapping[str, float]


def match(
    replay: StageReplay,
    predicted: Mapping[str, np.ndarray],
    exactly: Mapping[str, np.ndarray] | None = None,
    sorts: Sorts | None = None,
) -> Match:
    """Compare a port's values with a hypothesis's, tap by tap.

    A tap at which the hypothesis has another shape than the port is unexplained.

    Args:
        exactly: what the hypothesis computes in float64, where its own rounding has to be allowed for.
        sorts: by kind, the sorts of calls in which the port is wrong in some replay: there the hypothesis is to be
            what the port is, right or wrong. None means all.
    """
    reproduced: set[str] = set()
    unexplained: set[str] = set()
    overreached: set[str] = set()
    elsewhere: dict[str, frozenset[str]] = {}
    explained: dict[str, float] = {}
    rms: dict[str, float] = {}
    for kind, seen in replay.taps.items():
        if kind not in predicted:
            continue
        if predicted[kind].shape != seen.actual.shape:
            unexplained.add(kind)
            continue
        # Two that are right may round in opposite directions: a miss is where one of them is wrong.
        distance, wrong = seen.against(predicted[kind], None if exactly is None else exactly.get(kind))
        missed = replay.sorts(kind, distance.beyond & wrong)
        asked = sorts[kind] if sorts and kind in sorts else missed
        if missed - asked:
            elsewhere[kind] = missed - asked
        if seen.faulty:
            (unexplained if missed & asked else reproduced).add(kind)
            where = replay.among(kind, sorts[kind] if sorts and kind in sorts else sorts_of(replay))
            explained[kind] = share(distance.among(where).square, seen.from_golden.among(where).square)
            rms[kind] = distance.among(where).rms
        elif missed & asked:
            overreached.add(kind)
    return Match(frozenset(reproduced), frozenset(unexplained), frozenset(overreached), elsewhere, explained, rms)


def sorts_of(replay: StageReplay) -> frozenset[str]:
    """All sorts of calls of a replay."""
    return frozenset(sort_of(replay.case, call) for call in replay.calls)


def share(left: float, whole: float) -> float:
    """1 - left / whole: the part of a squared error that is explained. Negative where it grew."""
    if not np.isfinite(whole):
        return 1.0 if np.isfinite(left) else 0.0
    return 1.0 - left / whole if np.isfinite(left) and whole > 0 else float("-inf")
