"""The taps of a golden among all variables of a program, in one pass through it, on golden values.

What equals a tap is that tap, and the golden goes on in its place. Where no variable equals a tap that the next
operation needs, nothing after it does either: that is a bug. Then the golden is put in the place of variables that
are computed from the tap's inputs and from no other tap: from the right one the taps that read it are found. The
pass goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from harness.run.proposing.feeding import LOGITS, Feeding
from harness.run.proposing.flat import Flat
from harness.run.proposing.matching import Match, Matcher
from harness.run.proposing.values import Put, Values
from harness.taps import kind_of

MOST_TRIED = 16  # variables for one tap
MOST_PAIRED = 6
LAYERS_AHEAD = 1.5  # after as much without a tap the pass has come to a bug


@dataclass(frozen=True)
class Standing:
    """A variable in the place of a tap that no variable equals.

    Attributes:
        far: how far off it is, as a share of the tap's size.
        computed_from: the taps from which it is computed.
        is_sure: whether, with the golden in its place, the taps that are computed from it are right.
        is_input: whether it is itself one of the tap's inputs: the operation is not there.
    """

    variable: int
    layout: str | None
    far: float
    computed_from: tuple[str, ...]
    is_sure: bool
    is_input: bool = False


@dataclass
class Traced:
    """What was found.

    Attributes:
        found: by tap, the variables that equal it, in the order of the program.
        also: by tap, others with the same golden values, of which one variable is all.
        standing: by tap that no variable equals.
        logits: whether they are the golden's, with golden values before them.
    """

    found: dict[str, list[tuple[int, Match]]] = field(default_factory=dict)
    also: dict[str, set[str]] = field(default_factory=dict)
    standing: dict[str, Standing] = field(default_factory=dict)
    logits: bool | None = None


class DataFlow:
    """Finds the taps of a case among a program's variables."""

    def __init__(self, flat: Flat, values: Values, matcher: Matcher, advance: Callable[[str], None]) -> None:
        self._flat, self._values, self._matcher, self._advance = flat, values, matcher, advance
        self._fits = {x: tuple(matcher.fitting(flat.shapes[x][0])) for x in flat.made_at if x in flat.shapes}
        self._output = flat.outputs[0]
        self._last_read = {x: at for at, step in enumerate(flat.steps) for x in step.inputs}
        self._tap: dict[int, str] = {}  # what goes on from a variable
        self._from: dict[int, frozenset[int]] = {}  # the nearest variables before it that are taps
        self._now = Traced()
        self._feeding = Feeding(matcher.graph, matcher.taps)

    @property
    def _stands(self) -> set[int]:
        return {one.variable for one in self._now.standing.values()}

    def __call__(self, layers: int) -> Traced:
        """One pass, and back to wherever the golden had to be put."""
        steps, at, last = self._flat.steps, 0, 0
        ahead = int(LAYERS_AHEAD * len(steps) / max(layers, 1)) + 1
        while True:
            if at < len(steps):
                last = at if self._passed(at, ahead) else last
                at += 1
            if at - last <= ahead and at < len(steps):
                continue
            back = self._beyond(at)
            if back is None and at >= len(steps):
                break
            at = last = at if back is None else self._rewound(back)
        self._unseen(len(steps))
        return self._now

    # One step of the pass.

    def _passed(self, at: int, ahead: int) -> bool:
        """Go on by a step; whether a tap was seen."""
        step, values = self._flat.steps[at], self._values
        outputs = values.own(step)
        values.keep(step, outputs)
        before = frozenset[int]().union(*(self._roots(x) for x in step.inputs))
        seen = False
        for variable, value in zip(step.outputs, outputs, strict=True):
            self._from[variable] = before
            if self._fits.get(variable) and variable not in self._stands:
                seen |= self._seen(variable, np.asarray(value), before)
            if variable == self._output:
                self._now.logits = self._matcher.are_logits(np.asarray(value))
                seen |= bool(self._now.logits)
        values.forget_large(step)
        old = self._flat.steps[max(at - 2 * ahead, 0)]
        if at > 2 * ahead and all(self._last_read.get(x, 0) < at for x in old.outputs):
            values.forget(old)
        if not at % 100:
            self._advance(f"operation {at} of {len(self._flat.steps)}")
        return seen

    def _seen(self, variable: int, value: np.ndarray, before: frozenset[int]) -> bool:
        matches = self._matcher.matches(value)
        if not matches:
            return False
        stands = {tap for tap, one in self._now.standing.items() if one.variable in before}
        if any(match.tap in stands for match in matches):
            return False  # what was put somewhere is itself in all that hands it on
        match = self._chosen(matches, before)
        self._tap[variable] = match.tap
        self._feeding.settled.discard(match.tap)
        self._values.put[variable] = match.tap, match.layout
        self._now.found.setdefault(match.tap, []).append((variable, match))
        self._now.also.setdefault(match.tap, set()).update(x.tap for x in matches if x.tap != match.tap)
        return True

    def _chosen(self, matches: list[Match], before: frozenset[int]) -> Match:
        """Of taps with the same values the one that is computed from what this is computed from."""
        names = {self._tap[x] for x in before}
        inputs = self._feeding.inputs

        def fit(match: Match) -> tuple[int, bool]:
            exact = 0 if set(inputs[match.tap]) == names else 1 if names == {match.tap} else 2
            return exact, match.tap in self._now.found

        return min(matches, key=fit)

    def _roots(self, variable: int) -> frozenset[int]:
        return frozenset({variable}) if variable in self._tap else self._from.get(variable, frozenset())

    # Where it stops.

    def _is_known(self, tap: str) -> bool:
        return bool(self._now.logits) if tap == LOGITS else tap in self._now.found or tap in self._now.standing

    def _beyond(self, at: int) -> int | None:
        """Put the golden where a tap stands by data flow; the step of that, or None where none does."""
        while front := self._feeding.front(self._is_known):
            candidates = {tap: list(self._candidates(tap, at)) for tap in front}
            for put in _tries(front, candidates):
                if self._is_right(put, at):
                    return self._stand(put, is_sure=True)
            for tap in front:
                nearest = [one for tier, one in candidates[tap] if tier <= 1]
                if nearest:
                    return self._stand({tap: nearest[0]}, is_sure=False)
            self._feeding.settled.add(front[0])  # it is nowhere: what follows from it may be found all the same
        return None

    def _candidates(self, tap: str, at: int) -> Iterator[tuple[int, tuple[int, Put]]]:
        """The variables that may stand in the place of a tap, the likeliest first, and how likely."""
        inputs = set(self._feeding.inputs[tap])
        dims, kind = self._matcher.taps[tap].dims, kind_of(tap)
        before = {
            site
            for other, one in self._now.standing.items()
            if kind_of(other) == kind
            for site in self._sites(one.variable)
        }
        first = min((self._made(x) for name in inputs for x in self._holding(name)), default=0)
        ranked: list[tuple[int, float, int, Put]] = []
        for step in self._flat.steps[first:at]:
            for variable in step.outputs:
                layouts = [own for fitting, own in self._fits.get(variable, ()) if fitting == dims]
                if not layouts or (tier := self._tier(variable, inputs)) is None:
                    continue
                value = np.asarray(self._values[variable])
                tier = 0 if tier == 1 and before & self._sites(variable) else tier
                far, at_most = min((self._far(value, tap, layout), n) for n, layout in enumerate(layouts))
                ranked.append((tier, round(far, 6), variable, (tap, layouts[at_most])))
        for tier, _, variable, put in sorted(ranked, key=lambda x: x[:3])[:MOST_TRIED]:
            yield tier, (variable, put)

    def _tier(self, variable: int, inputs: set[str]) -> int | None:
        """How likely a variable is what is computed from some taps: 1 from these alone, 2 is one, 3 from some."""
        if variable in self._tap:
            return 2 if self._tap[variable] in inputs else None
        names = {self._tap[x] for x in self._from.get(variable, frozenset())}
        if names == inputs:
            return 1
        return 3 if names & inputs else None

    def _sites(self, variable: int) -> set[tuple[str, str]]:
        return {(mark.site.path, mark.site.field) for mark, _ in self._flat.places.get(variable, ())}

    def _holding(self, tap: str) -> list[int]:
        standing = self._now.standing.get(tap)
        return [standing.variable] if standing else [x for x, _ in self._now.found.get(tap, ())]

    def _far(self, value: np.ndarray, tap: str, layout: str | None) -> float:
        far = self._matcher.distance(value, tap, layout)
        return far if far == far else float("inf")

    def _made(self, variable: int) -> int:
        return self._flat.made_at[variable]

    def _is_right(self, put: Mapping[str, tuple[int, Put]], at: int) -> bool:
        """Whether, with the golden in some places, a tap that is computed from all of these is found."""
        readers = {tap for name in put for tap in self._feeding.readers(name)}
        inputs = self._feeding.inputs
        readers = {
            tap
            for tap in readers
            if set(put) <= set(inputs[tap])
            and not (tap != LOGITS and any(self._matcher.same(tap, one) for one in put))
        }
        through = {self._tap[variable] for variable, _ in put.values() if variable in self._tap}
        for variable, value in self._values.tried(dict(put.values()), at, through):
            if variable == self._output and LOGITS in readers:
                return bool(self._matcher.are_logits(np.asarray(value)))
            if self._fits.get(variable) and any(
                match.tap in readers for match in self._matcher.matches(np.asarray(value))
            ):
                return True
        return False

    def _stand(self, put: Mapping[str, tuple[int, Put]], is_sure: bool) -> int:
        for tap, (variable, (_, layout)) in put.items():
            is_input = variable in self._tap
            names = {self._tap[x] for x in ({variable} if is_input else self._from.get(variable, ()))}
            far = self._matcher.distance(np.asarray(self._values[variable]), tap, layout)
            ordered = tuple(name for name in self._matcher.taps if name in names)
            self._now.standing[tap] = Standing(variable, layout, far, ordered, is_sure, is_input)
        for tap, (variable, own) in put.items():
            self._tap[variable], self._values.put[variable] = tap, own
        return min(self._made(variable) for variable, _ in put.values())

    def _rewound(self, at: int) -> int:
        """Forget what comes after a step, but for what stands; the step after it."""
        standing = {one.variable for one in self._now.standing.values()}
        later = {x for step in self._flat.steps[at + 1 :] for x in step.outputs}
        for variable in later - standing:
            self._tap.pop(variable, None)
            self._values.put.pop(variable, None)
        for step in self._flat.steps[at + 1 :]:
            self._values.forget(step)
        for tap, found in list(self._now.found.items()):
            self._now.found[tap] = [(x, match) for x, match in found if x not in later]
            if not self._now.found[tap]:
                del self._now.found[tap]
        return at + 1

    # What is wrong, and harms nothing.

    def _unseen(self, end: int) -> None:
        """Taps that no variable equals, while what is computed from them is right: the golden would do as well."""
        missing = [tap for tap in self._matcher.taps if not self._is_known(tap)]
        self._feeding.settled.clear()
        candidates = {
            tap: [(tier, one) for tier, one in self._candidates(tap, end) if tier <= 1]
            for tap in missing
            if all(self._is_known(x) for x in self._feeding.inputs[tap])
        }
        for put in _tries(list(candidates), candidates):
            if not set(put) & set(self._now.standing) and self._is_right(put, end):
                self._stand(put, is_sure=True)


def _tries(
    front: list[str], candidates: Mapping[str, list[tuple[int, tuple[int, Put]]]]
) -> Iterator[Mapping[str, tuple[int, Put]]]:
    """One variable after the other for one tap, then for two."""
    for tap in front:
        yield from ({tap: one} for _, one in candidates[tap])
    for n, a in enumerate(front):
        for b in front[n + 1 :]:
            for (_, one), (_, other) in product(candidates[a][:MOST_PAIRED], candidates[b][:MOST_PAIRED]):
                if one[0] != other[0]:
                    yield {a: one, b: other}
