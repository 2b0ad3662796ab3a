"""A model on golden values: which of its places are which taps, and where that stops, what stands there.

The golden goes on in the place of every value that equals a tap, as in replay, so that what matches further down
does not depend on what is above. A bug stops this at the tap where it sits: no value equals it. Then the golden is
put in the place of one value of its size after the other, and the one from which other taps follow is the tap's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product

import jax
import numpy as np
from jax import Array

from harness.run.proposing.matching import Match, Matcher
from harness.run.proposing.places import Places
from harness.run.proposing.watched import Mark, Watched
from harness.taps import Tap, recorded_inputs

MOST_TRIED = 6  # places for one tap
MOST_PAIRED = 3
MOST_RUNS = 80
CLOSE = 0.01  # as a share of its size: a tap in coarser arithmetic, tables in bfloat16, say

Key = tuple[int, int | None]  # a mark, and the iteration of the scan that it is in
Put = Mapping[Key, tuple[str, str | None]]  # what is put there: a tap, in a layout


@dataclass(frozen=True)
class Seen:
    """A value, and what it is.

    Attributes:
        matches: the taps that it equals.
        put: the tap that was put in its place, and that it does not equal.
        far: by how much it does not, as a share of the tap's size.
    """

    mark: Mark
    iteration: int | None
    shape: tuple[int, ...]
    dtype: str
    matches: tuple[Match, ...]
    put: str | None = None
    layout: str | None = None
    far: float = 0.0


@dataclass
class Found:
    """What a run showed.

    Attributes:
        seen: all values, in their order.
        near: for a tap that was asked for, the places that could be it: distance, place, layout.
    """

    seen: list[Seen] = field(default_factory=list)
    near: dict[str, list[tuple[float, Key, str | None]]] = field(default_factory=dict)
    logits: bool | None = None

    @property
    def taps(self) -> set[str]:
        """Those that some value equals."""
        return {match.tap for one in self.seen for match in one.matches} | ({"logits"} if self.logits else set())


class Search:
    """Looks for the taps of a case among a model's values.

    Attributes:
        put: what stands in the place of a tap that no value equals, by data flow.
        gave_up: whether it ran as often as it may.
    """

    def __init__(self, watched: Watched, matcher: Matcher, advance: Callable[[str], None]) -> None:
        self._watched, self._matcher, self._advance = watched, matcher, advance
        self._inputs = recorded_inputs(matcher.graph, {*matcher.taps, "logits"})
        self._readers: dict[str, list[str]] = {name: [] for name in self._inputs}
        for name, inputs in self._inputs.items():
            for one in inputs:
                self._readers[one].append(name)
        self.places = Places(watched.marks, watched.methods)
        self.put: dict[Key, tuple[str, str | None]] = {}
        self._runs = 0

    @property
    def gave_up(self) -> bool:
        return self._runs >= MOST_RUNS

    def __call__(self) -> Found:
        """The last run, in which golden values went on wherever a tap's place is known."""
        found, settled = self._run(self.put), set[str]()
        while not self.gave_up:
            known = found.taps | {tap for tap, _ in self.put.values()}
            missing = [name for name in self._inputs if name in self._matcher.taps and name not in known | settled]
            front = [name for name in missing if not set(self._inputs[name]) & set(missing)]
            stuck = [name for name in front if not self._goes_on(name, known)]
            settled.update(set(front) - set(stuck))
            if not stuck:
                if not front:
                    break
                continue
            better = self._beyond(stuck, found)
            if better is None:
                settled.add(stuck[0])  # it is nowhere: what follows from it may be found all the same
                continue
            self.put |= self._in_all_layers(better)
            found = self._run(self.put)
        return found

    def _goes_on(self, tap: str, known: set[str]) -> bool:
        """Whether what is computed from a tap was found: then it is right, and only hidden."""
        return bool(self._readers[tap]) and any(name in known for name in self._readers[tap])

    def _beyond(self, stuck: list[str], before: Found) -> Put | None:
        """What to put where, so that more taps are found."""
        near = self._run(self.put, stuck).near
        ranked = {
            tap: [(key, layout) for _, key, layout in sorted(near.get(tap, []), key=_first)] for tap in stuck
        }
        for tap in stuck:
            if near.get(tap) and (nearest := min(near[tap], key=_first))[0] < CLOSE:
                return {nearest[1]: (tap, nearest[2])}
        for tap in stuck:
            tries = [{key: (tap, layout)} for key, layout in ranked[tap][:MOST_TRIED]]
            if (best := self._best(tries, before)) is not None:
                return best
        for one, other in ((a, b) for n, a in enumerate(stuck) for b in stuck[n + 1 :]):
            both = product(ranked[one][:MOST_PAIRED], ranked[other][:MOST_PAIRED])
            pairs = [{a: (one, x), b: (other, y)} for (a, x), (b, y) in both if a != b]
            if (best := self._best(pairs, before)) is not None:
                return best
        return None

    def _best(self, tries: Iterable[Put], before: Found) -> Put | None:
        """The first of those from which most taps follow."""
        best, most = None, 0
        for one in tries:
            if self.gave_up:
                break
            # What was put somewhere is itself in all that hands it on: that says nothing.
            own = {tap for tap, _ in one.values()}
            gained = len(self._run({**self.put, **one}).taps - before.taps - own)
            if gained > most:
                best, most = one, gained
        return best

    def _in_all_layers(self, put: Put) -> Put:
        """The same places in other layers: what is wrong in one is mostly wrong in all."""
        found = dict(put)
        for (index, iteration), (tap, layout) in put.items():
            parts = tap.split(".")
            for other in (
                {name.split(".")[1] for name in self._inputs if name.count(".") == 2} if len(parts) == 3 else ()
            ):
                name = ".".join((parts[0], other, parts[2]))
                if iteration is not None:
                    found.setdefault((index, int(other)), (name, layout))
                    continue
                mark = self.places.at_layer(self._watched.marks[index], int(parts[1]), int(other))
                if mark is not None:
                    found.setdefault((mark.index, None), (name, layout))
        return found

    def _run(self, put: Put, asked: Iterable[str] = ()) -> Found:
        self._runs += 1
        self._advance(f"run {self._runs}")
        found, asked, handed = Found(), tuple(asked), dict[str, np.ndarray]()

        def on_value(mark: Mark, iteration: int | None, value: Array) -> Array:
            here = np.asarray(value)
            matches = tuple(self._matcher.matches(here))
            key = mark.index, iteration
            goes_on = (matches[0].tap, matches[0].layout) if matches else put.get(key)
            seen = Seen(mark, iteration, here.shape, here.dtype.name, matches)
            if goes_on is not None and not matches:
                tap, layout = goes_on
                seen = replace(seen, put=tap, layout=layout, far=self._matcher.distance(here, tap, layout))
                if here.dtype.itemsize < self._matcher.width:  # what follows has the golden as it is rounded there
                    handed[tap] = self._matcher.golden(tap, None, here.shape).astype(here.dtype)
            elif goes_on is None and (again := self._matcher.again(here, handed)):
                seen = replace(seen, put=again[0], layout=again[1])
            found.seen.append(seen)
            if goes_on is None:
                for name in asked:
                    self._note(found, self._matcher.taps[name], key, here)
                return value
            golden = self._matcher.golden(*goes_on, here.shape).astype(here.dtype)
            return jax.device_put(golden, value.sharding) if golden.shape == here.shape else value

        found.logits = self._matcher.are_logits(np.asarray(self._watched(on_value)))
        return found

    def _note(self, found: Found, tap: Tap, key: Key, value: np.ndarray) -> None:
        for dims, layout in self._matcher.fitting(value.shape):
            if dims == tap.dims:
                far = self._matcher.distance(value, tap.name, layout)
                found.near.setdefault(tap.name, []).append((far if far == far else float("inf"), key, layout))
                break


def _first(item: tuple[float, Key, str | None]) -> tuple[float, int]:
    return item[0], item[1][0]
