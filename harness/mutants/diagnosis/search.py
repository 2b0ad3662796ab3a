"""From what a port did to the bug that does the same: one mutant, one with another value, or two at once.

A name is given only where a candidate computes, within the noise, what the port computes, in every scene in which
that tap is wrong, and where it is not contradicted by a scene in which the port is right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from harness.mutants.catalogue import CATALOGUE
from harness.mutants.diagnosis.bench import Bench, Scene, layer_of
from harness.mutants.diagnosis.candidate import Candidate
from harness.mutants.diagnosis.families import FAMILIES, Family
from harness.mutants.diagnosis.fit import BY_ID, fitted
from harness.mutants.diagnosis.match import Match, match
from harness.taps import decoder_taps, kind_of

# Runs of one stage; a hundredth of a second each on a small model.
MOST_PAIRS = 300
# A candidate that explains this much may be the bug, but for its own rounding.
NEAR = 0.999
# A candidate that explains less of the error than this is not near.
WORTH_SAYING = 0.01
# Of equally good explanations a wrong value comes before a wrong formula, and that before a wrong arithmetic.
PLAUSIBLE = ("config", "weight", "call", "operation", "numerics")


@dataclass(frozen=True, eq=False)
class Explanation:
    """A candidate that reproduces the port.

    Attributes:
        kinds: the faulty kinds that it reproduces in every scene.
        value: the candidate's value, layer by layer where every layer has its own.
        rms: the port's largest distance from it there, in noise multiples.
        explained: the smallest share of the port's squared error that it explains there.
        beyond: kinds at which the catalogue's mutant is wrong as well, and the port is not, or is otherwise.
        every_layer: it is in the layers in which the catalogue has it.
    """

    candidate: Candidate
    kinds: frozenset[str]
    value: str
    rms: float
    explained: float
    beyond: frozenset[str]
    every_layer: bool


@dataclass(frozen=True, eq=False)
class Ranked:
    """A candidate that does not reproduce the port, and the share of the error that it explains."""

    candidate: Candidate
    explained: float


@dataclass(frozen=True, eq=False)
class Answer:
    """What was found about the first faulty kind.

    Attributes:
        kind: the tap, without its layer, that was to be explained.
        named: candidates that reproduce the port and cannot be told apart on these inputs; none, where none does.
        others: the nearest of the rest, best first.
        tried: how many candidates were compared.
    """

    kind: str
    named: tuple[Explanation, ...]
    others: tuple[Ranked, ...]
    tried: int


class Search:
    """Explains the faulty kinds of a port.

    Args:
        bench: runs candidates.
        scenes: what the port did, in data-flow order; of each stage the scene to begin with comes first.
        faulty_layers: by kind, the layers in which it is wrong.
        layers: of the model.
        hidden: kinds that the port does not expose.
        thorough: also free values, and two mutants at once.
    """

    def __init__(
        self,
        bench: Bench,
        scenes: Sequence[Scene],
        faulty_layers: Mapping[str, frozenset[int]],
        layers: int,
        hidden: frozenset[str] = frozenset(),
        thorough: bool = True,
    ) -> None:
        self._bench, self._scenes, self._faulty_layers = bench, scenes, faulty_layers
        self._layers, self._hidden = layers, hidden
        self._wrong = frozenset(kind for scene in scenes for kind in scene.faulty)
        self._attempts = (self._singles, self._fits, self._two_at_once) if thorough else (self._singles,)

    def explain(self, kind: str) -> Answer:
        """Name the bug at a faulty kind.

        The catalogue is tried first as it is, then with free values, then two at a time: the simplest explanation
        that reproduces the port is the answer.
        """
        scene = next(s for s in self._scenes if kind in s.faulty)
        tried: list[tuple[Candidate, Match]] = []
        for attempt in self._attempts:
            new = list(attempt(kind, scene, tried))
            tried += new
            found = [e for c, m in new if kind in m.reproduced and (e := self._confirm(c, kind)) is not None]
            if found:
                named = _indistinguishable(found)
                return Answer(kind, named, _ranking(tried, kind, {e.candidate for e in named}), len(tried))
        return Answer(kind, (), _ranking(tried, kind, set()), len(tried))

    def _singles(self, kind: str, scene: Scene, tried: object) -> Iterator[tuple[Candidate, Match]]:
        candidates = [
            Candidate.of(mutant)
            for mutant in CATALOGUE
            if self._concerns(mutant.introduced, kind) and (scene.case.cached or not mutant.cached)
        ]
        yield from self._matched(candidates, scene, kind)

    def _fits(self, kind: str, scene: Scene, tried: object) -> Iterator[tuple[Candidate, Match]]:
        for family in FAMILIES:
            if self._concerns(BY_ID[family.mutant].introduced, kind):
                for candidate, found in self._matched(
                    fitted(family, self._bench, scene, kind, self._layers), scene, kind
                ):
                    yield candidate, found
                    if kind in found.reproduced:
                        break  # another start would find the same value

    def _two_at_once(
        self, kind: str, scene: Scene, tried: Sequence[tuple[Candidate, Match]]
    ) -> Iterator[tuple[Candidate, Match]]:
        """Pairs of what was tried; those that explain more by themselves come first."""
        best = sorted(tried, key=lambda pair: -pair[1].explained.get(kind, float("-inf")))
        together = (a.together(b) for (a, _), (b, _) in combinations(best, 2))
        pairs = [pair for pair, _ in zip(filter(None, together), range(MOST_PAIRS), strict=False)]
        yield from self._matched(pairs, scene, kind)

    def _matched(
        self, candidates: Iterable[Candidate], scene: Scene, kind: str
    ) -> Iterator[tuple[Candidate, Match]]:
        """What comes after this kind is computed for those alone that reproduce it (`_confirm`)."""
        for candidate in candidates:
            predicted = self._bench.predict(candidate, scene, until=kind)
            if predicted is not None and kind in predicted:
                yield candidate, self._match(candidate, scene, predicted, kind)

    def _match(self, candidate: Candidate, scene: Scene, predicted: Mapping[str, np.ndarray], kind: str) -> Match:
        """The match, with the candidate's own rounding allowed for where that may decide it."""
        found = match(scene, predicted)
        near = found.explained.get(kind, 0.0) > NEAR or (kind in found.overreached)
        if kind in found.reproduced or not near:
            return found
        exactly = self._bench.exactly(candidate, scene)
        return found if exactly is None else match(scene, predicted, exactly)

    def _confirm(self, candidate: Candidate, kind: str) -> Explanation | None:
        """The candidate held against every scene; None where one of them speaks against it."""
        matches: list[Match] = []
        values: dict[str, str] = {}
        wrong_nowhere: set[str] = set()
        for scene in self._scenes:
            here = self._in_stage(candidate, scene, kind)
            predicted = self._bench.predict(here, scene)
            if predicted is None:
                return None
            found = self._match(here, scene, predicted, kind)
            wrong_here = self._wrong_in(scene, kind)
            if kind in found.unexplained or (kind in found.overreached and wrong_here):
                return None
            wrong_nowhere |= found.overreached - self._wrong
            if wrong_here or layer_of(scene.stage) is None:
                matches.append(found)
            if here is not candidate and wrong_here:
                values[scene.stage] = f"{scene.stage}: {here.value}"
        faulty = frozenset().union(*(m.reproduced | m.unexplained for m in matches))
        kinds = faulty - frozenset().union(*(m.unexplained for m in matches))
        own = self._visible(candidate.introduced)
        in_layers = self._faulty_layers.get(kind)
        return Explanation(
            candidate,
            kinds=kinds & own,
            value=", ".join(values.values()) or candidate.value,
            rms=max(m.rms[k] for m in matches for k in kinds & own & m.reproduced),
            explained=min(m.explained[k] for m in matches for k in kinds & own & m.reproduced),
            beyond=frozenset(wrong_nowhere).union(*(m.overreached | (m.unexplained & own) for m in matches)),
            every_layer=in_layers is None or candidate.layers(self._layers) == in_layers,
        )

    def _in_stage(self, candidate: Candidate, scene: Scene, kind: str) -> Candidate:
        """The candidate as it is in this scene: a family whose value is each layer's own is fitted anew."""
        family = _by_layer(candidate)
        if family is None or kind not in scene.faulty:
            return candidate
        return next(fitted(family, self._bench, scene, kind, self._layers), candidate)

    def _wrong_in(self, scene: Scene, kind: str) -> bool:
        """Whether the port is wrong at this kind in this scene's stage, in some case."""
        return any(kind in other.faulty for other in self._scenes if other.stage == scene.stage)

    def _concerns(self, introduced: frozenset[str], kind: str) -> bool:
        return kind in self._visible(introduced)

    def _visible(self, introduced: frozenset[str]) -> frozenset[str]:
        """Where a mutant shows in this port: what it does not expose shows at the next taps that it does."""
        shown = set(introduced)
        for tap in decoder_taps(layers=1):  # data-flow order
            if any(kind_of(name) in shown & self._hidden for name in tap.inputs):
                shown.add(tap.kind)
        return frozenset(shown - self._hidden)


def _by_layer(candidate: Candidate) -> Family | None:
    return next((f for f in FAMILIES if f.by_layer and candidate.value and candidate.ids == (f.mutant,)), None)


def _indistinguishable(found: Sequence[Explanation]) -> tuple[Explanation, ...]:
    """The best explanations, all that are equally good: they explain most and claim least beyond it.

    A fitted value that does as well as the catalogue as it is only imitates it.
    """

    def quality(e: Explanation) -> tuple[int, int, int]:
        return -len(e.kinds), len(e.beyond), not e.every_layer

    best = min(map(quality, found))
    equal = [e for e in found if quality(e) == best]
    equal = [e for e in equal if not e.candidate.value] or equal
    return tuple(sorted(equal, key=lambda e: PLAUSIBLE.index(e.candidate.mutants[0].kind)))


def _ranking(
    tried: Sequence[tuple[Candidate, Match]], kind: str, named: set[Candidate], most: int = 3
) -> tuple[Ranked, ...]:
    """The best of the others; of one mutant, with whatever value, only the best."""
    ranked = [Ranked(c, m.explained.get(kind, float("-inf"))) for c, m in tried if c not in named]
    best: dict[tuple[str, ...], Ranked] = {}
    for entry in sorted(ranked, key=lambda r: (-r.explained, len(r.candidate.mutants))):
        best.setdefault(entry.candidate.ids, entry)
    return tuple(entry for entry in best.values() if entry.explained > WORTH_SAYING)[:most]
