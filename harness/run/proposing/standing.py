"""Which tap feeds which, and what may stand in the place of one that no variable equals."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from harness.run.proposing.flat import Flat
from harness.run.proposing.matching import Match, Matcher
from harness.run.proposing.values import Put, Values
from harness.taps import Tap, kind_of, recorded_inputs

LOGITS = "logits"
MOST_TRIED = 16  # variables for one tap
MOST_PAIRED = 6
# How likely a variable is what is computed from some taps.
SAME_PLACE, FROM_THESE, IS_INPUT, FROM_SOME = range(4)


class Feeding:
    """What feeds what.

    Args:
        graph: all taps, in data-flow order.
        taps: those that are looked for; the logits are known as well.

    Attributes:
        settled: taps that are no more looked for: what they feed is fed by what feeds them.
    """

    def __init__(self, graph: Sequence[Tap], taps: Iterable[str]) -> None:
        self._graph, self.taps = tuple(graph), frozenset(taps)
        self._whole = recorded_inputs(self._graph, {*self.taps, LOGITS})
        self._past: tuple[frozenset[str], Mapping[str, tuple[str, ...]]] = frozenset(), self._whole
        self.settled: set[str] = set()

    @property
    def inputs(self) -> Mapping[str, tuple[str, ...]]:
        """By tap, those that feed it."""
        settled = frozenset(self.settled)
        if self._past[0] != settled:
            past = recorded_inputs(self._graph, {*self.taps, LOGITS} - settled)
            self._past = settled, {**self._whole, **past}
        return self._past[1]

    def readers(self, tap: str) -> list[str]:
        """Those that a tap feeds."""
        return [name for name, inputs in self.inputs.items() if tap in inputs and name not in self.settled]

    def front(self, is_known: Callable[[str], bool]) -> list[str]:
        """The first taps that are not known, and that feed none that is.

        What feeds a known one is only not to be seen: it is settled.
        """
        while True:
            first = [
                tap
                for tap, inputs in self.inputs.items()
                if tap in self.taps
                and tap not in self.settled
                and not is_known(tap)
                and all(map(is_known, inputs))
            ]
            hidden = {tap for tap in first if any(map(is_known, self.readers(tap)))}
            if not hidden:
                return first
            self.settled |= hidden


@dataclass(frozen=True)
class Standing:
    """A variable in the place of a tap that no variable equals.

    Attributes:
        far: how far off it is, as a share of the tap's size.
        computed_from: the taps from which it is computed.
        is_sure: whether, with the golden in its place, the taps that are computed from it are right.
        edges: where it is itself one of the tap's inputs, for the operation is not there: the steps that read it
            in the tap's place.
        root: what stands for the tap in what is computed from it.
    """

    variable: int
    layout: str | None
    far: float
    computed_from: tuple[str, ...]
    is_sure: bool
    edges: tuple[int, ...]
    root: int

    @property
    def is_input(self) -> bool:
        return bool(self.edges)


@dataclass
class Traced:
    """What is known of a program.

    Attributes:
        matched: by tap, the variables that equal it, in the order of the program.
        also: by tap, others with the same golden values.
        standing: by tap that no variable equals.
        logits: whether they are the golden's, with golden values before them.
        tap: what goes on from a variable.
        origin: the nearest variables before another one that are taps.
    """

    matched: dict[str, list[tuple[int, Match]]] = field(default_factory=dict)
    also: dict[str, set[str]] = field(default_factory=dict)
    standing: dict[str, Standing] = field(default_factory=dict)
    logits: bool | None = None
    tap: dict[int, str] = field(default_factory=dict)
    origin: dict[int, frozenset[int]] = field(default_factory=dict)

    def is_known(self, tap: str) -> bool:
        """Whether a tap is found, or something stands for it."""
        return bool(self.logits) if tap == LOGITS else tap in self.matched or tap in self.standing

    def names(self, variable: int) -> set[str]:
        """The taps that a variable is computed from."""
        return {self.tap[x] for x in self.origin.get(variable, frozenset())}

    def holding(self, tap: str) -> list[int]:
        """The variables that a tap goes on from."""
        standing = self.standing.get(tap)
        return [standing.variable] if standing else [variable for variable, _ in self.matched.get(tap, ())]


@dataclass(frozen=True)
class Candidate:
    """A variable for a tap, or one that a step reads."""

    tier: int
    variable: int
    put: Put
    edge: int | None = None


Tried = Mapping[str, Candidate]


class Candidates:
    """Looks for what stands in the place of taps."""

    def __init__(self, flat: Flat, values: Values, matcher: Matcher, feeding: Feeding, known: Traced) -> None:
        self._flat, self._values, self._matcher = flat, values, matcher
        self._feeding, self._known = feeding, known
        self._readers = flat.readers()
        self.fits = {x: tuple(matcher.fitting(flat.shapes[x][0])) for x in flat.made_at if x in flat.shapes}

    def of(self, tap: str, until: int) -> list[Candidate]:
        """The variables for a tap among some steps, the likeliest first."""
        inputs, dims = set(self._feeding.inputs[tap]), self._matcher.taps[tap].dims
        alike = [held for name, held in self._known.standing.items() if kind_of(name) == kind_of(tap)]
        before = {site for held in alike for site in self._sites(held.variable)}
        first = min((self._flat.made_at[x] for name in inputs for x in self._known.holding(name)), default=0)
        ranked: list[tuple[float, Candidate]] = []
        for step in self._flat.steps[first:until]:
            for variable in step.outputs:
                layouts = [own for fitting, own in self.fits.get(variable, ()) if fitting == dims]
                if not layouts or (tier := self._tier(variable, inputs)) is None:
                    continue
                value = np.asarray(self._values[variable])
                far, n = min((self.far(value, tap, layout), n) for n, layout in enumerate(layouts))
                tier = SAME_PLACE if tier == FROM_THESE and before & self._sites(variable) else tier
                edges = self._readers.get(variable, ()) if tier == IS_INPUT else (None,)
                ranked += [(round(far, 6), Candidate(tier, variable, (tap, layouts[n]), e)) for e in edges]
        ranked.sort(key=lambda x: (x[1].tier, x[0], x[1].variable))
        return [candidate for _, candidate in ranked[:MOST_TRIED]]

    def far(self, value: np.ndarray, tap: str, layout: str | None) -> float:
        """How far a value is from a tap; infinity where that is no number."""
        far = self._matcher.distance(value, tap, layout)
        return far if far == far else float("inf")

    def follows(self, tried: Tried, until: int) -> bool:
        """Whether, with golden values in some places, a tap is found that is computed from all of them."""
        put = {c.variable: c.put for c in tried.values() if c.edge is None}
        edges = {(c.edge, c.variable): c.put for c in tried.values() if c.edge is not None}
        return any(self._following(set(tried), put, edges, until))

    def standing(self, candidate: Candidate, until: int, is_sure: bool) -> Standing:
        """A candidate that is taken: where it is the tap's input, all steps that read it in the tap's place."""
        tap, layout = candidate.put
        variable, root = candidate.variable, candidate.variable
        names, edges = self._known.names(variable), self._edges(candidate, until)
        if edges:
            names, root = {self._known.tap[variable]}, -min(edges) - 1  # no variable has that number
        ordered = tuple(name for name in self._matcher.taps if name in names)
        far = self.far(np.asarray(self._values[variable]), tap, layout)
        return Standing(variable, layout, far, ordered, is_sure, edges, root)

    def _edges(self, candidate: Candidate, until: int) -> tuple[int, ...]:
        """The steps that read a variable in a tap's place: with each of them more is found that the tap feeds."""
        if candidate.edge is None:
            return ()
        taken, most = list[int](), 0
        others = [at for at in self._readers[candidate.variable] if at != candidate.edge]
        for at in (candidate.edge, *others):
            edges = {(edge, candidate.variable): candidate.put for edge in (*taken, at)}
            count = len({*self._following({candidate.put[0]}, {}, edges, until)})
            if count > most or not taken:
                taken.append(at)
                most = count
        return tuple(taken)

    def _following(
        self, taps: set[str], put: Mapping[int, Put], edges: Mapping[tuple[int, int], Put], until: int
    ) -> Iterator[str]:
        """What is found of the taps that are computed from all of some, with golden values in their places."""
        readers = {
            tap
            for name in taps
            for tap in self._feeding.readers(name)
            if taps <= set(self._feeding.inputs[tap])
            and not (tap != LOGITS and any(self._matcher.same(tap, given) for given in taps))
        }
        if not readers:
            return
        through = {self._known.tap[variable] for _, variable in edges}
        for variable, value in self._values.tried(put, edges, until, through):
            if variable == self._flat.outputs[0] and self._matcher.are_logits(np.asarray(value)):
                yield from {LOGITS} & readers
            elif self.fits.get(variable):
                yield from {match.tap for match in self._matcher.matches(np.asarray(value))} & readers

    def _tier(self, variable: int, inputs: Collection[str]) -> int | None:
        if variable in self._known.tap:
            return IS_INPUT if self._known.tap[variable] in inputs else None
        names = self._known.names(variable)
        if names == set(inputs):
            return FROM_THESE
        return FROM_SOME if names & set(inputs) else None

    def _sites(self, variable: int) -> set[tuple[str, str]]:
        return {(mark.site.path, mark.site.field) for mark, _ in self._flat.places.get(variable, ())}


def tries(front: Sequence[str], candidates: Mapping[str, Sequence[Candidate]]) -> Iterator[Tried]:
    """One variable after the other for one tap, then for two."""
    for tap in front:
        yield from ({tap: candidate} for candidate in candidates[tap])
    for n, a in enumerate(front):
        for b in front[n + 1 :]:
            for first, second in product(candidates[a][:MOST_PAIRED], candidates[b][:MOST_PAIRED]):
                if (first.variable, first.edge) != (second.variable, second.edge):
                    yield {a: first, b: second}
