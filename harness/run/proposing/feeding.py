"""Which tap of a golden feeds which, past those that are given up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from harness.taps import Tap, recorded_inputs

LOGITS = "logits"


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
