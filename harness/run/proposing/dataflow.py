"""The taps of a golden among all variables of a program, in one pass through it, on golden values.

What equals a tap is that tap, and the golden goes on in its place. Where no variable equals a tap that the next
operation needs, nothing after it does either: that is a bug. Then the golden is put in the place of variables that
are computed from the tap's inputs and from no other tap: from the right one the taps that read it are found. The
pass goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from harness.run.proposing.flat import Flat
from harness.run.proposing.matching import Match, Matcher
from harness.run.proposing.standing import FROM_THESE, Candidates, Feeding, Traced, Tried, tries
from harness.run.proposing.values import Values

LAYERS_AHEAD = 1.5  # after as much without a tap the pass has come to a bug


class DataFlow:
    """Finds the taps of a case among a program's variables."""

    def __init__(self, flat: Flat, values: Values, matcher: Matcher, advance: Callable[[str], None]) -> None:
        self._flat, self._values, self._matcher, self._advance = flat, values, matcher, advance
        self._last_read = {x: at for at, step in enumerate(flat.steps) for x in step.inputs}
        self._known = Traced()
        self._feeding = Feeding(matcher.graph, matcher.taps)
        self._candidates = Candidates(flat, values, matcher, self._feeding, self._known)

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
        self._tell()
        return self._known

    # One step of the pass.

    def _passed(self, at: int, ahead: int) -> bool:
        """Go on by a step; whether a tap was seen."""
        step, values, known = self._flat.steps[at], self._values, self._known
        outputs = values.own(at)
        values.keep(step, outputs)
        before = self._before(at)
        stands = {held.variable for held in known.standing.values() if not held.is_input}
        seen = False
        for variable, value in zip(step.outputs, outputs, strict=True):
            known.origin[variable] = before
            if self._candidates.fits.get(variable) and variable not in stands:
                seen |= self._seen(variable, np.asarray(value), before)
            if variable == self._flat.outputs[0]:
                known.logits = self._matcher.are_logits(np.asarray(value))
                seen |= bool(known.logits)
        values.forget_large(step)
        old = self._flat.steps[max(at - 2 * ahead, 0)]
        if at > 2 * ahead and all(self._last_read.get(x, 0) < at for x in old.outputs):
            values.forget(old)
        if not at % 100:
            self._advance(f"operation {at} of {len(self._flat.steps)}")
        return seen

    def _seen(self, variable: int, value: np.ndarray, before: frozenset[int]) -> bool:
        known, matches = self._known, self._matcher.matches(value)
        if not matches:
            return False
        stands = {tap for tap, held in known.standing.items() if held.root in before}
        if any(match.tap in stands for match in matches):
            return False  # what was put somewhere is itself in all that hands it on
        match = self._chosen(matches, before)
        known.tap[variable] = match.tap
        self._feeding.settled.discard(match.tap)
        self._values.put[variable] = match.tap, match.layout
        known.matched.setdefault(match.tap, []).append((variable, match))
        known.also.setdefault(match.tap, set()).update(x.tap for x in matches if x.tap != match.tap)
        return True

    def _chosen(self, matches: list[Match], before: frozenset[int]) -> Match:
        """Of taps with the same values the one that is computed from what this is computed from."""
        names, inputs = {self._known.tap[x] for x in before}, self._feeding.inputs

        def fit(match: Match) -> tuple[int, bool]:
            exact = 0 if set(inputs[match.tap]) == names else 1 if names == {match.tap} else 2
            return exact, match.tap in self._known.matched

        return min(matches, key=fit)

    def _before(self, at: int) -> frozenset[int]:
        """The nearest taps before a step, by what stands for them."""
        known = self._known
        edges = {(e, held.variable): held.root for held in known.standing.values() for e in held.edges}

        def roots(variable: int) -> frozenset[int]:
            if (at, variable) in edges:
                return frozenset({edges[at, variable]})
            own = variable in known.tap
            return frozenset({variable}) if own else known.origin.get(variable, frozenset())

        return frozenset[int]().union(*map(roots, self._flat.steps[at].inputs))

    def _tell(self) -> None:
        """What is computed from what, now that all is known."""
        known = self._known
        for at, step in enumerate(self._flat.steps):
            known.origin.update(dict.fromkeys(step.outputs, self._before(at)))
        for tap, held in known.standing.items():
            names = known.names(held.variable)
            told = held.computed_from if held.is_input else tuple(x for x in self._matcher.taps if x in names)
            known.standing[tap] = replace(held, computed_from=told)

    # Where it stops.

    def _beyond(self, at: int) -> int | None:
        """Put the golden where a tap stands by data flow; the step before that, or None where none does."""
        while front := self._feeding.front(self._known.is_known):
            candidates = {tap: self._candidates.of(tap, at) for tap in front}
            for tried in tries(front, candidates):
                if self._candidates.follows(tried, at):
                    return self._stand(tried, at, is_sure=True)
            if (back := self._past(front, at)) is not None:
                return back
            for tap in front:
                nearest = [candidate for candidate in candidates[tap] if candidate.tier <= FROM_THESE]
                if nearest:
                    return self._stand({tap: nearest[0]}, at, is_sure=False)
            self._feeding.settled.add(front[0])  # it is nowhere: what follows from it may be found all the same
        return None

    def _past(self, front: list[str], at: int) -> int | None:
        """The same for the taps behind those: where these are in no variable, the bug is one of them."""
        settled = set(self._feeding.settled)
        self._feeding.settled.update(front)
        behind = self._feeding.front(self._known.is_known)
        for tap in behind:
            for candidate in self._candidates.of(tap, at):
                if candidate.tier <= FROM_THESE and self._candidates.follows({tap: candidate}, at):
                    return self._stand({tap: candidate}, at, is_sure=True)
        self._feeding.settled.intersection_update(settled)
        return None

    def _stand(self, tried: Tried, at: int, is_sure: bool) -> int:
        taken = {tap: self._candidates.standing(candidate, at, is_sure) for tap, candidate in tried.items()}
        for tap, held in taken.items():
            self._known.standing[tap], self._known.tap[held.root] = held, tap
            put = tap, held.layout
            self._values.edges.update({(edge, held.variable): put for edge in held.edges})
            if not held.is_input:
                self._values.put[held.variable] = put
        return min(min(held.edges) - 1 if held.is_input else self._made(held.variable) for held in taken.values())

    def _made(self, variable: int) -> int:
        return self._flat.made_at[variable]

    def _rewound(self, at: int) -> int:
        """Forget what comes after a step, but for what stands; the step after it."""
        known = self._known
        standing = {held.variable for held in known.standing.values() if not held.is_input}
        later = {x for step in self._flat.steps[at + 1 :] for x in step.outputs}
        for variable in later - standing:
            known.tap.pop(variable, None)
            self._values.put.pop(variable, None)
        for step in self._flat.steps[at + 1 :]:
            self._values.forget(step)
        for tap, pairs in list(known.matched.items()):
            known.matched[tap] = [(x, match) for x, match in pairs if x not in later]
            if not known.matched[tap]:
                del known.matched[tap]
        return at + 1

    # What is wrong, and stops nothing.

    def _unseen(self, end: int) -> None:
        """Taps that no variable equals, while what is computed from them is right, or wrong by itself."""
        known = self._known
        self._feeding.settled.clear()
        candidates = {
            tap: [candidate for candidate in self._candidates.of(tap, end) if candidate.tier <= FROM_THESE]
            for tap in self._matcher.taps
            if not known.is_known(tap) and all(map(known.is_known, self._feeding.inputs[tap]))
        }
        for tried in tries(list(candidates), candidates):
            if not set(tried) & set(known.standing) and self._candidates.follows(tried, end):
                self._stand(tried, end, is_sure=True)
        for tap, ranked in candidates.items():
            standing = {held.variable for held in known.standing.values()}
            behind = any(name in known.standing for name in self._feeding.readers(tap))
            free = [candidate for candidate in ranked if candidate.variable not in standing]
            if tap not in known.standing and behind and free:
                self._stand({tap: free[0]}, end, is_sure=False)
