"""From what a port did to the bug that does the same: one mutant, one with another value, or two at once.

A name is given only where a hypothesis computes, within the noise, what the port computes, in every replay in
which that tap is wrong, and is right wherever the port is: in other cases, layers, and calls of the same sort.
Where the port is right in all calls of a sort the hypothesis is held to be in the others alone, and that is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, islice

from harness.metrics import UNIT_ROUNDOFF
from harness.mutants.applies import not_here
from harness.mutants.bench import layer_of
from harness.mutants.catalogue import CATALOGUE
from harness.mutants.diagnosis.answer import Answer, Explanation, Ranked, indistinguishable, ranking
from harness.mutants.diagnosis.fit import fitted
from harness.mutants.diagnosis.hypothesis import NOTHING, Hypothesis, Match, match
from harness.mutants.diagnosis.prediction import Predictor, Values
from harness.mutants.diagnosis.replay import StageReplay
from harness.mutants.mutant import Mutant
from harness.mutants.needs import of_architecture
from harness.taps import Tap, kind_of

# Runs of one stage; a hundredth of a second each on a small model.
MOST_PAIRS = 60
# How many of the catalogue's nearest are tried below a free value that goes around them.
MOST_BELOW = 3
# A hypothesis that explains this much may be the bug, but for its own rounding.
NEAR = 0.999
# A share of the limit. Another way of writing one formula rounds otherwise, but hardly comes further than this.
SURE = 0.75
# In noise multiples: two roundings of one function are up to so far apart.
AS_NOISY = 3.0
# In limits. A value is free to follow rounding too: it is a name only where the error is so many times beyond it.
TELLING = 4.0
# In units of rounding. Where one bug leaves no more of what it explains, another beside it explains the rounding.
A_FEW = 4.0


class Search:
    """Explains the faulty kinds of a port.

    Args:
        predictor: runs hypotheses.
        replays: what the port did, in data-flow order; of each stage the replay to begin with comes first.
        faulty_layers: by kind, the layers in which it is wrong.
        layers: of the model.
        hidden: kinds that the port does not expose.
        thorough: also free values, and two mutants at once.
    """

    def __init__(
        self,
        predictor: Predictor,
        replays: Sequence[StageReplay],
        faulty_layers: Mapping[str, frozenset[int]],
        layers: int,
        hidden: frozenset[str] = frozenset(),
        thorough: bool = True,
    ) -> None:
        self._predictor, self._replays, self._faulty_layers = predictor, replays, faulty_layers
        self._layers, self._hidden = layers, hidden
        model = of_architecture(predictor.config)
        self._catalogue = [mutant for mutant in CATALOGUE if not_here(mutant, model) is None]
        self._one_layer = _one_of_each(predictor.source.taps.values())
        self._wrong = frozenset(kind for replay in replays for kind in replay.faulty)
        self._sorts = {kind: self._wrong_sorts(kind) for kind in self._wrong}
        self._telling = {kind: self._is_telling(kind) for kind in self._wrong}
        self._thorough = thorough
        self._attempts = (self._singles, self._fits, self._two_at_once) if thorough else (self._singles,)

    def explain(self, kind: str) -> Answer:
        """Name the bug at a faulty kind.

        The catalogue is tried first as it is, then with free values, then two at a time: the simplest explanation
        that reproduces the port is the answer.
        """
        whole = next(s for s in self._replays if kind in s.faulty)
        replay = whole.call(kind) if whole.case.cached and self._predictor.calls_apart(whole.case) else whole
        if self._is_built_in(kind):
            return Answer(kind, (), (), 0, built_in=True)
        tried: list[tuple[Hypothesis, Match]] = []
        others: list[Ranked] = []
        explanations: list[Explanation] = []
        sure = max(SURE * replay.taps[kind].limit.plain, AS_NOISY)
        for attempt in self._attempts:
            new = list(attempt(kind, replay, tried))
            tried += new
            for hypothesis, matched in new:
                said = self._said(hypothesis, matched, kind)
                if isinstance(said, Explanation):
                    explanations.append(said)
                elif kind in matched.explained:
                    own = _by_layer(hypothesis) is not None
                    value = f"{replay.stage}: {hypothesis.value}" if own else hypothesis.value
                    others.append(Ranked(hypothesis, matched.explained[kind], value, said))
            # Where rounding is coarse the catalogue's own may be within it, and another value nearer by far.
            if explanations and (
                attempt != self._singles or not self._thorough or min(e.rms for e in explanations) <= sure
            ):
                pairs = attempt == self._two_at_once  # two fit better than one: nearer says nothing there
                named = indistinguishable(explanations, float("inf") if pairs else sure)
                best = {e.hypothesis for e in named}
                rest = (Ranked(e.hypothesis, e.explained, e.value, _narrower(e)) for e in explanations)
                others += (r for r in rest if r.hypothesis not in best)
                return Answer(kind, named, ranking(others), len(tried))
        return Answer(kind, (), ranking(others), len(tried))

    def _said(self, hypothesis: Hypothesis, matched: Match, kind: str) -> Explanation | str:
        """The explanation that a hypothesis is; what speaks against it, where something does."""
        if kind not in matched.reproduced:
            return self._left(matched, kind)
        if hypothesis.value and not self._telling[kind]:
            return "but the error is too near to rounding for a value to be fitted to it"
        return self._confirm(hypothesis, kind)

    def _is_telling(self, kind: str) -> bool:
        """Whether a kind is far enough beyond its limit somewhere."""
        seen = [replay.taps[kind] for replay in self._replays if kind in replay.faulty]
        return any(max(o.from_golden.rms / o.limit.plain, o.from_golden.max) >= TELLING for o in seen)

    def _is_built_in(self, kind: str) -> bool:
        """Whether the port computes what the built-in decoder does, wherever it is said to be wrong."""
        for replay in self._replays:
            if kind in replay.faulty:
                predicted = self._predictor.predict(NOTHING, replay, until=kind)
                if predicted is None or kind not in self._match(NOTHING, replay, predicted, kind).reproduced:
                    return False
        return True

    def _singles(self, kind: str, replay: StageReplay, tried: object) -> Iterator[tuple[Hypothesis, Match]]:
        hypotheses = [
            Hypothesis.of(mutant)
            for mutant in self._catalogue
            if self._concerns(mutant.introduced, kind) and (replay.case.cached or not mutant.cached)
        ]
        yield from self._matched(hypotheses, replay, kind)

    def _fits(self, kind: str, replay: StageReplay, tried: object) -> Iterator[tuple[Hypothesis, Match]]:
        for mutant in self._free(kind):
            yield from self._fit(mutant, replay, kind)

    def _fit(
        self, mutant: Mutant, replay: StageReplay, kind: str, below: Hypothesis = NOTHING
    ) -> Iterator[tuple[Hypothesis, Match]]:
        hypotheses = fitted(mutant, self._predictor, replay, kind, self._layers, below)
        for hypothesis, matched in self._matched(hypotheses, replay, kind):
            yield hypothesis, matched
            if kind in matched.reproduced:
                return  # another start would find the same value

    def _free(self, kind: str) -> Iterator[Mutant]:
        """Those with a free value."""
        return (m for m in self._catalogue if m.free is not None and self._concerns(m.introduced, kind))

    def _two_at_once(
        self, kind: str, replay: StageReplay, tried: Sequence[tuple[Hypothesis, Match]]
    ) -> Iterator[tuple[Hypothesis, Match]]:
        """Pairs of what was tried; those that explain more by themselves come first.

        What goes around an operation is fitted anew around the nearest others: its value alone is not its value
        with them.
        """
        nearest = sorted(tried, key=lambda pair: -pair[1].explained.get(kind, float("-inf")))
        rounding = (A_FEW * UNIT_ROUNDOFF[replay.taps[kind].precision]) ** 2
        best = [c for c, matched in nearest if matched.explained.get(kind, 0.0) < 1 - rounding]
        for some in ([c for c in best if not c.value], best):
            pairs = filter(None, (a.together(b) for a, b in combinations(some, 2)))
            yield from self._matched(islice(pairs, MOST_PAIRS), replay, kind)
        for mutant in self._free(kind):
            if mutant.free is not None and mutant.free.around:
                for below in [c for c in best if not c.value and mutant.id not in c.ids][:MOST_BELOW]:
                    yield from self._fit(mutant, replay, kind, below)

    def _matched(
        self, hypotheses: Iterable[Hypothesis], replay: StageReplay, kind: str
    ) -> Iterator[tuple[Hypothesis, Match]]:
        """What comes after this kind is computed for those alone that reproduce it (`_confirm`)."""
        for hypothesis in hypotheses:
            predicted = self._predictor.predict(hypothesis, replay, until=kind)
            if predicted is not None and kind in predicted:
                yield hypothesis, self._match(hypothesis, replay, predicted, kind)

    def _match(self, hypothesis: Hypothesis, replay: StageReplay, predicted: Values, kind: str) -> Match:
        """The match, with the hypothesis's own rounding allowed for where that may decide it."""
        matched = match(replay, predicted, sorts=self._sorts)
        near = matched.explained.get(kind, 0.0) > NEAR or (kind in matched.overreached)
        if kind in matched.reproduced or not near:
            return matched
        exactly = self._predictor.exactly(hypothesis, replay, until=next(reversed(tuple(predicted))))
        return matched if exactly is None else match(replay, predicted, exactly, self._sorts)

    def _confirm(self, hypothesis: Hypothesis, kind: str) -> Explanation | str:
        """The hypothesis held against every replay; what speaks against it, where one of them does."""
        matches: list[Match] = []
        values: dict[str, str] = {}
        wrong_nowhere: set[str] = set()
        right_layers, right_sorts = False, frozenset[str]()
        own = self._visible(hypothesis.introduced)  # no mutant is wrong elsewhere
        for replay in self._replays:
            here = self._in_stage(hypothesis, replay, kind)
            place = f"{replay.stage} in case {replay.case.name}"
            last = next((k for k in reversed(tuple(replay.taps)) if k in own), None)
            predicted = self._predictor.predict(here, replay, until=last)
            if predicted is None:
                return f"it does not run at {place}"
            matched = self._match(here, replay, predicted, kind)
            wrong_here = self._wrong_in(replay, kind)
            if kind in matched.unexplained:
                return f"but not at {place}"
            if kind in matched.overreached and wrong_here:
                return f"but {place} is right, and with it would not be"
            wrong_nowhere |= matched.overreached - self._wrong
            right_layers |= not wrong_here and (kind in matched.overreached or kind in matched.elsewhere)
            right_sorts |= matched.elsewhere.get(kind, frozenset()) if wrong_here else frozenset()
            if wrong_here or layer_of(replay.stage) is None:
                matches.append(matched)
            if kind in replay.faulty and _by_layer(hypothesis) is not None:
                values[replay.stage] = f"{replay.stage}: {here.value}"
        faulty = frozenset().union(*(m.reproduced | m.unexplained for m in matches))
        kinds = faulty - frozenset().union(*(m.unexplained for m in matches))
        return Explanation(
            hypothesis,
            kinds=kinds & own,
            value=", ".join(values.values()) or hypothesis.value,
            rms=max(m.rms[k] for m in matches for k in kinds & own & m.reproduced),
            explained=min(m.explained[k] for m in matches for k in kinds & own & m.reproduced),
            beyond=frozenset(wrong_nowhere).union(*(m.overreached | (m.unexplained & own) for m in matches)),
            every_layer=not right_layers or hypothesis.layers(self._layers) == self._faulty_layers.get(kind),
            only=self._sorts[kind] if right_sorts else frozenset(),
            elsewhere=right_sorts,
        )

    def _left(self, matched: Match, kind: str) -> str:
        """Why a hypothesis that explains nearly everything is not the bug."""
        if matched.explained.get(kind, 0.0) <= NEAR:
            return ""
        return f"but {matched.rms[kind]:.2g} times the noise is left"

    def _in_stage(self, hypothesis: Hypothesis, replay: StageReplay, kind: str) -> Hypothesis:
        """The hypothesis as it is in this replay: a value that is each layer's own is fitted anew."""
        mutant = _by_layer(hypothesis)
        if mutant is None or kind not in replay.faulty:
            return hypothesis if replay.case.cached else hypothesis.in_prompts()
        return next(fitted(mutant, self._predictor, replay, kind, self._layers), hypothesis)

    def _wrong_in(self, replay: StageReplay, kind: str) -> bool:
        """Whether the port is wrong at this kind in this replay's stage, in some case."""
        return any(kind in s.faulty for s in self._replays if s.stage == replay.stage)

    def _wrong_sorts(self, kind: str) -> frozenset[str]:
        """The sorts of calls in which a kind is wrong in some replay."""
        replays = (replay for replay in self._replays if kind in replay.faulty)
        return frozenset().union(*(s.sorts(kind, s.taps[kind].from_golden.beyond) for s in replays))

    def _concerns(self, introduced: frozenset[str], kind: str) -> bool:
        return kind in self._visible(introduced)

    def _visible(self, introduced: frozenset[str]) -> frozenset[str]:
        """Where a mutant shows in this port: what it does not expose shows at the next taps that it does."""
        shown = set(introduced)
        for tap in self._one_layer:  # data-flow order
            if any(kind_of(name) in shown & self._hidden for name in tap.inputs):
                shown.add(tap.kind)
        return frozenset(shown - self._hidden)


def _one_of_each(taps: Iterable[Tap]) -> list[Tap]:
    """The taps outside the layers, and those of one layer of every sort, in data-flow order."""
    stages: dict[str, list[Tap]] = {}
    for tap in taps:
        stages.setdefault(tap.stage, []).append(tap)
    sorts = {tuple(tap.kind for tap in own): own for own in reversed(stages.values())}
    chosen = {tap.name for own in sorts.values() for tap in own}
    return [tap for own in stages.values() for tap in own if tap.name in chosen]


def _by_layer(hypothesis: Hypothesis) -> Mutant | None:
    """The mutant that a hypothesis is, where every layer has a value of its own."""
    alone = hypothesis.mutants[0] if hypothesis.value and len(hypothesis.mutants) == 1 else None
    return alone if alone is not None and alone.free is not None and alone.free.by_layer else None


def _narrower(explanation: Explanation) -> str:
    """Why a hypothesis that reproduces the port is not the first to be named."""
    if not explanation.every_layer:
        return "but layers are right that with it would not be"
    if explanation.only:
        return f"but in {', '.join(sorted(explanation.only))} alone"
    if explanation.beyond:
        return f"but {', '.join(sorted(explanation.beyond))} would be otherwise"
    return "but another explains more"
