"""One case in one pass: hands goldens to the port, takes its values, and has them compared as they come.

Nothing is kept: a value is compared when it arrives (the values of several calls, when the last has come) and then
dropped, so that memory holds one stage's taps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from harness import along
from harness.comparison import Place
from harness.errors import shortened
from harness.golden import CaseEntry
from harness.results import TapResult
from harness.run.comparing import Comparing, Judgement, Reference, compared, refusal
from harness.run.source import GoldenSource
from harness.run.tapping import Around, Goldens, TapFunction, fired_twice, going_on, refuse_tracer, whole
from harness.taps import OPTIONAL, PINNED, Tap, kind_of, name_of

MOST_OF_A_NAME = 200  # of a tap that a port invents


class CaseSession:
    """The tap of one case, on its own activations or replaying. Implements `harness.run.tapping.Session`.

    Args:
        mode: `forward` or `replay`.
        references: what else the values are compared with.
        golden_too: whether they are compared with the case's golden at all.
    """

    def __init__(
        self,
        source: GoldenSource,
        case: CaseEntry,
        mode: str,
        judgement: Judgement,
        references: Sequence[Reference] = (),
        golden_too: bool = True,
    ) -> None:
        self.replaying, self.case = mode == "replay", case
        self._source, self._judgement = source, judgement
        self._by = Comparing(source, case, mode, judgement)
        self._references, self._golden_too = tuple(references), golden_too
        self._by_stage: dict[str, list[Tap]] = {}
        for tap in self._by.wanted.values():
            if tap.name != "logits":  # the check itself taps what forward returns
                self._by_stage.setdefault(tap.stage, []).append(tap)
        self._came: set[tuple[str, int]] = set()
        self._done: set[str] = set()
        self._values: dict[str, list[jax.Array | np.ndarray]] = {}
        self._rounding: Mapping[str, str] = {}

    @property
    def expected(self) -> int:
        """How many comparisons this session makes where the port keeps its contract."""
        return sum(len(self._modes(tap)) for tap in self._by.wanted.values())

    def __call__(self, name: str, value: jax.Array) -> jax.Array:
        """Take a value; in replay, hand back the golden."""
        refuse_tracer(name, value)
        self.take(name, value)
        return going_on(name, self.golden(name), value, self.replaying)

    def calls(self) -> list[TapFunction]:
        """A tap for each call of the case, in order."""
        if not self.case.cached:
            return [self]
        return [CallSession(self, call, span) for call, span in enumerate(self._by.spans)]

    def golden(self, name: str, span: slice | None = None) -> np.ndarray | None:
        """What takes the place of a tap in replay, or pins it; None where the port's own value goes on.

        Args:
            span: the tokens of the call that asks; None is one call of all of them.
        """
        tap = self._by.wanted.get(name)
        return self._handed(tap, span) if tap and name != "logits" and self._replaces(tap) else None

    def goldens(self, stage: str, span: slice | None = None) -> dict[str, np.ndarray]:
        return {tap.kind: self._handed(tap, span) for tap in self._by_stage.get(stage, ())}

    def _replaces(self, tap: Tap) -> bool:
        """Whether a golden takes the place of a tap, or pins it."""
        return self.replaying or (self._by.pins and tap.kind in PINNED)

    def _handed(self, tap: Tap, span: slice | None) -> np.ndarray:
        """What a call is handed for a tap: its golden, or where that takes no place, what looks like it."""
        value = (self._source.rounded if self._replaces(tap) else self._source.blank)(self.case.name, tap.name)
        return value if span is None else along.give(tap, value, span)

    def expect(self, stage: str) -> None:
        """Read what a stage's taps will be compared with; `head` is the last one."""
        last = [name for name in ("final_norm", "logits") if name in self._by.wanted]
        taps = [tap.name for tap in self._by_stage.get(stage, ())]
        self._source.read(self.case.name, last if stage == "head" else taps, self.replaying)

    def judge_by(self, rounding: Mapping[str, str]) -> None:
        self._rounding = rounding

    def absorb(self, stage: str, recorded: Mapping[str, jax.Array | np.ndarray]) -> None:
        for kind, value in recorded.items():
            self.take(name_of(stage, kind), value)

    def take(self, name: str, value: jax.Array | np.ndarray, call: int = 0) -> None:
        """Take a value of one call; a tap is compared when all of its calls have come."""
        tap = self._by.wanted.get(name)
        values = self._complete(name, value if tap is None else whole(value), call)
        if not values:
            return
        if tap is None:
            self._say_of_invented(name)
            return
        modes, rounding, by = self._modes(tap), self._rounding.get(name), self._by
        if not modes:
            return
        if (refused := refusal(by, tap, values)) is not None:
            self._say(refused, modes)
            return
        joined = along.take(tap, values, self.case)
        if by.mode in modes:
            self._judgement.sink(compared(by, tap, values, joined, rounding, self._judgement.watch))
        for reference in self._references:
            if reference.mode in modes:
                self._judgement.sink(reference.result(tap, joined, by.dtype(tap.kind), rounding))

    def _complete(self, name: str, value: jax.Array | np.ndarray, call: int) -> list[Any]:
        """The values of all calls, once they have come; nothing before."""
        if (name, call) in self._came:
            raise fired_twice(name)
        self._came.add((name, call))
        values = self._values.setdefault(name, [])
        if call != len(values):
            return []  # an earlier call did not tap it: `finish` reports it as missing
        values.append(value)
        if len(values) < len(self._by.spans):
            return []
        self._done.add(name)
        return self._values.pop(name)

    def finish(self) -> None:
        """Report the taps that never came."""
        for name, tap in self._by.wanted.items():
            if name not in self._done:
                said = ("tapped once", "never tapped")
                if self.case.cached:
                    said = ("tapped in every call", f"not tapped in call {len(self._values.get(name, ()))}")
                self._say(self._by.place(tap).result("missing", *said), self._modes(tap))

    def _modes(self, tap: Tap) -> tuple[str, ...]:
        """The modes in which a tap is compared."""
        if tap.name in self._by.silent:
            return ()
        own = (self._by.mode,) if self._golden_too else ()
        return (*own, *(reference.mode for reference in self._references if reference.wants(tap)))

    def _say(self, result: TapResult, modes: Sequence[str]) -> None:
        """What is said alike in several modes."""
        for mode in modes:
            self._judgement.sink(replace(result, mode=mode))

    def _say_of_invented(self, name: str) -> None:
        """What is said of a tap that is not asked for: nothing, but where the golden could not have it either."""
        if name in self._source.taps or kind_of(name) in OPTIONAL:
            return  # not recorded at this case's level, or declared as not exposed
        mode = self._by.mode if self._golden_too else self._references[0].mode
        called = shortened(name, MOST_OF_A_NAME)
        place = Place(self.case.name, self._source.precision, mode, Tap(called, (), ()))
        self._judgement.sink(place.result("extra", "a tap of the golden", f"a tap called {called}"))


class CallSession(Around):
    """The tap of one call of a case."""

    def __init__(self, session: CaseSession, call: int, span: slice) -> None:
        super().__init__(session)
        self._case, self._call, self._span = session, call, span

    def __call__(self, name: str, value: jax.Array) -> jax.Array:
        refuse_tracer(name, value)
        self._case.take(name, value, self._call)
        return going_on(name, self._case.golden(name, self._span), value, self.replaying)

    def goldens(self, stage: str) -> Goldens:
        return self._case.goldens(stage, self._span)

    def absorb(self, stage: str, recorded: Mapping[str, jax.Array | np.ndarray]) -> None:
        for kind, value in recorded.items():
            self._case.take(name_of(stage, kind), value, self._call)
