"""Which precision, cases and layers are looked at, and the port's values there: those of the check, where they are
few, or of a second replay.

In float64 a right port and a wrong one are furthest apart. A port that hard-codes float32 is wrong in float64
wherever it does so, by float32's own rounding. That is no bug of its formula, so that such a port is looked at in
float32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from harness.calibration import Floor
from harness.golden import CaseEntry
from harness.mutants.bench import EMBED, layer_of, left_by, stages_of
from harness.mutants.diagnosis.replay import FAULTY, Observation, StageReplay, sort_of, stage_of
from harness.results import TapResult
from harness.run.check import Checker
from harness.run.comparing import Compared
from harness.run.port import Declarations
from harness.run.reporting import Run
from harness.taps import Tap, kind_of
from harness.tolerances import PRECISIONS

# Enough positions for a mask, a scale and RoPE to differ; few enough to be quick.
COMFORTABLE, MOST_TOKENS = 8, 64
# A port may be right in one case and wrong in another with calls of the same sort: as many of each are looked at.
EACH = 3
# Twenty times float32's unit roundoff: what a few operations in float32 leave.
FLOAT32_SIZED = 20 * 2.0**-24
# Of a run that compares no more than this many bytes all are kept: what is to be looked at again is there already.
MOST_WATCHED = 128 * 2**20


def wrong_kinds(results: Sequence[TapResult], precision: str) -> tuple[str, ...]:
    """The kinds that are introduced in replay at a precision, in the order of the results."""
    return tuple(
        dict.fromkeys(
            kind_of(r.tap)
            for r in results
            if (r.precision, r.mode) == (precision, "replay") and r.verdict in FAULTY
        )
    )


def hard_coded(results: Sequence[TapResult]) -> tuple[str, ...]:
    """Kinds that are wrong in float64 by no more than the rounding of float32, and right in float32."""
    if not any(r.precision == "float32" for r in results):
        return ()
    right_in_float32 = set(wrong_kinds(results, "float64")) - set(wrong_kinds(results, "float32"))
    sizes: dict[str, list[float]] = {kind: [] for kind in right_in_float32}
    for r in results:
        kind = kind_of(r.tap)
        if kind in sizes and (r.precision, r.mode) == ("float64", "replay") and r.verdict in FAULTY:
            sizes[kind].append(float("inf") if r.rel_rms is None else r.rel_rms)
    return tuple(kind for kind, errors in sizes.items() if median(errors) < FLOAT32_SIZED)


def telling(results: Sequence[TapResult]) -> str | None:
    """The precision to look at: the widest with something introduced; None where nothing is."""
    narrow = hard_coded(results)
    for precision in PRECISIONS:
        kinds = set(wrong_kinds(results, precision))
        if kinds and not (precision == "float64" and narrow and wrong_kinds(results, "float32")):
            return precision
    return None


def sorts(case: CaseEntry) -> frozenset[str]:
    """The sorts of calls that a case has."""
    return frozenset(sort_of(case, call) for call in range(len(case.calls) or 1))


def representatives(cases: Sequence[CaseEntry]) -> tuple[CaseEntry, ...]:
    """Cases in which every sort of call comes a few times, with every operation; the shorter ones."""
    chosen: list[CaseEntry] = []
    times: Counter[str] = Counter()
    for case in sorted(cases, key=lambda case: (case.shape[1] < COMFORTABLE, case.shape[1])):
        whole = case.complete and case.shape[1] <= MOST_TOKENS
        if whole and any(times[sort] < EACH for sort in sorts(case)):
            chosen.append(case)
            times.update(sorts(case))
    return tuple(chosen)


def first_cases(cases: Sequence[CaseEntry]) -> tuple[CaseEntry, ...]:
    """A single token, two short prompts, and what else has another sort of call; of those with every operation.

    All cases where there are none.
    """
    plain = [c for c in cases if c.complete and c.shape[0] == 1 and not c.cached]
    full = sorted(plain, key=lambda c: c.shape[1])
    prompts = [c for c in full if c.shape[1] >= COMFORTABLE] or full[1:]
    return tuple(dict.fromkeys((*full[:1], *prompts[:2], *representatives(cases)))) or tuple(cases)


@dataclass(frozen=True)
class Plan:
    """What to look at again.

    Attributes:
        cases: the one to begin with comes first.
        stages: in data-flow order.
    """

    cases: tuple[CaseEntry, ...]
    stages: tuple[str, ...]


def plan(
    results: Sequence[TapResult], cases: Sequence[CaseEntry], taps: Sequence[Tap], layers: Sequence[Hashable] = ()
) -> Plan:
    """Choose cases and layers from the judged replay results of one precision: of cases that were replayed.

    Cases: the shortest and the longest comfortable one in which as many kinds are wrong as in any, one for what is
    wrong nowhere else, and one of every sort of call: what is named has to be right where the port is.
    Layers: of every sort the first and the last that are wrong, and the first and the last that are not.

    Args:
        layers: of which sort each layer is; none means that all are alike.
    """
    by_name = {tap.name: tap for tap in taps}
    replayed = {result.case for result in results}
    cases = [case for case in cases if case.name in replayed]
    wrong: dict[str, set[str]] = {case.name: set() for case in cases}
    for result in results:
        if result.verdict in FAULTY:
            wrong[result.case].add(by_name[result.tap].kind)

    def rank(case: CaseEntry) -> tuple[int, bool, bool, int]:
        tokens = case.shape[1]
        return -len(wrong[case.name]), case.cached, not COMFORTABLE <= tokens <= MOST_TOKENS, tokens

    ranked = sorted((case for case in cases if wrong[case.name]), key=rank)
    chosen = dict.fromkeys(ranked[:1])
    alike = [c for c in ranked if len(wrong[c.name]) == len(wrong[ranked[0].name]) and c.shape[1] <= MOST_TOKENS]
    chosen |= dict.fromkeys(alike[-1:])
    for case in ranked:
        if wrong[case.name] - set().union(*(wrong[c.name] for c in chosen)):
            chosen[case] = None
    everything = set().union(*wrong.values())
    partly = [c for c in cases if wrong[c.name] < everything and c.complete and c.shape[1] <= MOST_TOKENS]
    chosen |= dict.fromkeys(sorted(partly, key=lambda c: c.shape[1])[-1:])
    chosen |= dict.fromkeys(representatives(cases))
    return Plan(tuple(chosen), _stages([r for r in results if r.verdict in FAULTY], taps, layers))


def _stages(wrong: Sequence[TapResult], taps: Sequence[Tap], layers: Sequence[Hashable]) -> tuple[str, ...]:
    def ends(stages: Iterable[str]) -> set[str]:
        """The first and the last of every sort."""
        by_sort: dict[Hashable, list[str]] = {}
        for stage in sorted(stages, key=order.index):
            index = layer_of(stage)
            by_sort.setdefault(layers[index] if layers and index is not None else None, []).append(stage)
        return {stage for alike in by_sort.values() for stage in (alike[0], alike[-1])}

    by_name = {tap.name: tap for tap in taps}
    order = list(dict.fromkeys(stage_of(tap) for tap in taps))
    by_kind: dict[str, list[str]] = {}
    for name in dict.fromkeys(r.tap for r in wrong):
        by_kind.setdefault(by_name[name].kind, []).append(stage_of(by_name[name]))
    chosen = set().union(*map(ends, by_kind.values()))
    faulty = {stage for stages in by_kind.values() for stage in stages}
    clean = [stage for stage in order if layer_of(stage) is not None and stage not in faulty]
    return tuple(stage for stage in order if stage in chosen | ends(clean))


class Watched:
    """What comparisons in replay were made of, where that is little.

    Args:
        most: bytes; None is any number.
        stages: of which; none means all.

    Attributes:
        whole: nothing was left out.
    """

    def __init__(self, most: int | None = MOST_WATCHED, stages: Collection[str] = ()) -> None:
        self._most, self._stages, self._bytes = most, stages, 0
        self._kept: dict[tuple[str, str], dict[str, list[Compared]]] = {}
        self.whole = True

    def __call__(self, compared: Compared) -> None:
        """Shown one; of a cache there is one for each call."""
        stage = stage_of(compared.tap)
        if compared.mode != "replay" or not self.whole or (self._stages and stage not in self._stages):
            return
        self._bytes += compared.actual.nbytes + compared.truth.nbytes
        if self._most is not None and self._bytes > self._most:
            self.whole = False
            self._kept.clear()
            return
        by_kind = self._kept.setdefault((stage, compared.case.name), {})
        by_kind.setdefault(compared.tap.kind, []).append(compared)

    def at(self, stage: str, case: CaseEntry) -> Mapping[str, Sequence[Compared]]:
        """Those of a stage of a case, by kind."""
        return self._kept.get((stage, case.name), {})


Ran = tuple[Run, Watched]  # a run, and what was seen of it


def observe(
    checker: Checker, precision: str, chosen: Plan, ran: Ran | None = None
) -> tuple[Declarations, tuple[StageReplay, ...]]:
    """What the port computes in the chosen stages of the chosen cases, where every tap is replaced by its golden.

    Args:
        ran: a run of them at this precision, and what was seen of it; without it the port is run once more.

    Returns:
        What the port declares; and the replays, stage by stage, within a stage in the order of the plan's cases.
    """
    if ran is None or not ran[1].whole:
        watched = Watched(most=None, stages=chosen.stages)
        ran = checker.run(precision, chosen.cases, watch=watched, modes=("replay",)), watched
    run, watched = ran
    order = [tap.kind for tap in checker.golden.manifest.taps]
    layers = {tap.stage for tap in checker.golden.manifest.taps if tap.stage}
    return run.declared, tuple(
        StageReplay(
            case,
            stage,
            {kind: _observed(checker, precision, in_one(seen[kind])) for kind in sorted(seen, key=order.index)},
        )
        for stage in chosen.stages
        for case in chosen.cases
        if (seen := watched.at(stage, case)) and _has_golden_inputs(case, stage, len(layers))
    )


def _has_golden_inputs(case: CaseEntry, stage: str, layers: int) -> bool:
    """Whether the golden has what enters a stage: a mutant has to start from what the port started from."""
    stages = stages_of(layers)
    return stage == EMBED or not case.partly or left_by(stages[stages.index(stage) - 1]) in case.taps


def _observed(checker: Checker, precision: str, compared: Compared) -> Observation:
    return Observation(compared, precision, checker.question.limit(compared.rounding or precision))


def in_one(calls: Sequence[Compared]) -> Compared:
    """A tap as it was compared: a cache after every call, one behind the other, and anything else once."""
    first = calls[0]
    if len(calls) == 1:
        return first
    axis = first.tap.position_axis
    noises = [compared.noise for compared in calls if compared.noise is not None]
    return replace(
        first,
        actual=np.concatenate([compared.actual for compared in calls], axis),
        truth=np.concatenate([compared.truth for compared in calls], axis),
        noise=Floor(*(np.concatenate(parts, axis=1) for parts in zip(*(n.arrays for n in noises), strict=True)))
        if noises
        else None,
        scope=replace(
            first.scope,
            counted=np.concatenate([compared.scope.counted for compared in calls], axis=1),
            positions=np.concatenate([compared.scope.positions for compared in calls]),
        ),
    )
