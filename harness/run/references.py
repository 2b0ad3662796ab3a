"""What values are compared with beside their case's golden: the port's own prefill, and a row's prompt alone.

Mode `prefill` is the port's own single pass over the tokens of a case with a KV cache, without the cache. Its
values are kept until those of the case's calls have come, tap by tap; of a port that works layer by layer that is
one layer's.

Mode `alone` is each row of a batch against the golden of the prompt that has the very same tokens. The prompts'
goldens are laid out as the batch is, so that one comparison sees all rows. A row's padding is not compared; as a
key of `probs` it gets the weight 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import jax
import numpy as np
from jaxtyping import Float, Num

from harness import along
from harness.along import Case, Scope
from harness.calibration import Floor
from harness.choice import Choosing
from harness.comparison import Place
from harness.golden import CaseEntry
from harness.results import TapResult
from harness.run.choices import choosing, choosing_by, scores_of
from harness.run.comparing import Compared, Judgement, judged
from harness.run.session import CaseSession
from harness.run.source import GoldenSource
from harness.run.tapping import TapFunction, fired_twice, whole
from harness.store import Golden
from harness.taps import CACHE_KINDS, CACHED, PINNED, Tap, kind_of, name_of
from harness.tolerances import Limit

if TYPE_CHECKING:
    from harness.top import Largest

EXPECTED = "in the port's own prefill of the same tokens"


class OwnPrefill(CaseSession):
    """The tap of that pass, in which nothing is compared: the values of the calls are, with its own."""

    mode = "prefill"

    def __init__(self, source: GoldenSource, case: CaseEntry, judgement: Judgement) -> None:
        super().__init__(source, case, "forward", judgement, golden_too=False)
        self._kept: dict[str, np.ndarray] = {}
        wanted = [tap for tap in self._by.wanted.values() if tap.name not in self._by.silent and self.wants(tap)]
        self._readers = Counter(_uncached(tap) for tap in wanted)

    def calls(self) -> list[TapFunction]:
        """One call, whatever the case has."""
        return [self]

    def expect(self, stage: str) -> None:
        """It is compared with nothing that could be read ahead."""

    def wants(self, tap: Tap) -> bool:
        """Whether the pass has what this tap is compared with: a cache, where the port taps what goes into it."""
        return tap.name in self._by.wanted and _uncached(tap) in self._by.wanted

    def goldens(self, stage: str, span: slice | None = None) -> dict[str, np.ndarray]:
        """As a prompt's tap has them, so that both share a compilation: a call without a cache has none to tap."""
        return {kind: golden for kind, golden in super().goldens(stage, span).items() if kind not in CACHE_KINDS}

    def take(self, name: str, value: jax.Array | np.ndarray, call: int = 0) -> None:
        """Keep a value."""
        if (name, call) in self._came:
            raise fired_twice(name)
        self._came.add((name, call))
        if name in self._readers:
            self._kept[name] = whole(value)

    def result(
        self, tap: Tap, actual: Num[np.ndarray, "..."], dtype: str, rounding: str | None = None
    ) -> TapResult:
        """Compare what all calls together gave for a tap; a cache is what it holds after the last call."""
        source, case = self._source, self.case
        place = Place(case.name, source.precision, self.mode, tap)
        own = self._taken(_uncached(tap))
        if own is None:
            return place.result("missing", f"tapped {EXPECTED}", "never tapped")
        if own.shape != actual.shape:
            return place.result("shape", f"{actual.shape}, as in its calls", f"{own.shape} {EXPECTED}")
        if own.dtype != actual.dtype:
            return place.result("dtype", f"{actual.dtype.name}, as in its calls", f"{own.dtype.name} {EXPECTED}")
        scope, largest = source.scope(case.name), source.largest(case.name, tap.name)
        if largest and actual.shape != largest.shape:
            return place.result("shape", str(largest.shape), str(actual.shape))
        truth = np.asarray(largest.of(own) if largest else own, np.float64)
        if not np.isfinite(np.moveaxis(truth, tap.position_axis, 1)[scope.counted]).all():
            return place.result("nonfinite", f"finite values {EXPECTED}", "NaN or infinity there")
        noise = source.at(rounding).noise(case, "forward", tap.name)
        limit, choices = self._judgement.limit_of(rounding), None
        if tap.kind in PINNED:
            choices = choosing(source, case, tap.name, "forward", limit, rounding)
        known = largest and replace(largest, top=None)  # whose sums are the golden's, and not of this pass
        given = Compared(case, self.mode, tap, actual, truth, noise, scope, rounding, known, choices)
        return judged(given, source.precision, limit, dtype)

    def _taken(self, name: str) -> np.ndarray | None:
        """A value, which is let go of when it has been asked for as often as it will be."""
        self._readers[name] -= 1
        return self._kept.get(name) if self._readers[name] else self._kept.pop(name, None)


def _uncached(tap: Tap) -> str:
    """The tap with whose value of all tokens a tap is compared: of a cache, what goes into it."""
    return name_of(tap.stage, CACHED.get(tap.kind, tap.kind))


def prompts_of(golden: Golden, entry: CaseEntry) -> tuple[CaseEntry | None, ...]:
    """For each row of a batch the prompt with the same token ids at the same positions, recorded the deepest.

    None where the golden has no such prompt, or keeps only some of its positions; no rows where the case is no
    batch.
    """
    if entry.shape[0] == 1 or entry.kept:
        return ()
    batch = golden.case(entry.name)
    single = [case for case in golden.manifest.cases if case.shape[0] == 1 and not (case.cached or case.kept)]
    tokens = {case.name: _tokens(golden.case(case.name), 0) for case in single}
    alike = [[case for case in single if tokens[case.name] == _tokens(batch, row)] for row in range(batch.batch)]
    return tuple(max(same, key=lambda case: len(case.taps), default=None) for same in alike)


def _tokens(case: Case, row: int) -> tuple[list[int], list[int]]:
    """The ids of a row's tokens, and their positions."""
    real = case.mask[row]
    return case.input_ids[row][real].tolist(), case.positions[row][real].tolist()


def rows_not_covered(golden: Golden, entry: CaseEntry) -> Iterator[str]:
    """What mode `alone` cannot say about a batch, and why."""
    prompts = prompts_of(golden, entry)
    missing = [row for row, prompt in enumerate(prompts) if prompt is None]
    if missing:
        yield f"{_rows(missing)} of {entry.name} alone: no prompt of the golden has their token ids"
    taps = {tap for tap in entry.taps if kind_of(tap) not in CACHE_KINDS}
    shallow = {row: prompt for row, prompt in enumerate(prompts) if prompt is not None and taps - {*prompt.taps}}
    if shallow:
        names = ", ".join(f"{prompt.name} at {prompt.depth}" for prompt in shallow.values())
        yield f"operations of {_rows(list(shallow))} of {entry.name} alone: recorded less deep there ({names})"


def _rows(rows: list[int]) -> str:
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows))}"


@dataclass(frozen=True, eq=False)
class AloneGolden:
    """The prompts' goldens as the rows of a batch, at one precision."""

    source: GoldenSource
    entry: CaseEntry
    prompts: tuple[CaseEntry | None, ...]
    judgement: Judgement
    mode: ClassVar[str] = "alone"

    def wants(self, tap: Tap) -> bool:
        """Whether a prompt has this tap: a prompt has no cache; and of choices what they are judged by."""
        if tap.kind in CACHE_KINDS or not any(self._against(tap)):
            return False
        if tap.kind not in PINNED or self.source.precision == "float64":
            return True
        # By the scores alone a choice may be a tie.
        scores = scores_of(self.source, tap.name)
        return all(scores in prompt.taps for _, prompt, _ in self._rows(tap))

    def result(
        self, tap: Tap, actual: Num[np.ndarray, "..."], dtype: str, rounding: str | None = None
    ) -> TapResult:
        """Compare the batch's value, of all calls together, with the rows' prompts."""
        truth, noise, scope = self._truth(tap), self._noise(tap, rounding), self._scope(tap)
        limit, largest = self.judgement.limit_of(rounding), self._largest(tap)
        choices = self._choosing(tap, scope, limit, rounding) if tap.kind in PINNED else None
        given = Compared(self.entry, self.mode, tap, actual, truth, noise, scope, rounding, largest, choices)
        return replace(judged(given, self.source.precision, limit, dtype), against=self._against(tap))

    def _choosing(self, tap: Tap, scope: Scope, limit: Limit, rounding: str | None) -> Choosing:
        """What the rows' choices are judged by: their prompts' scores."""
        scores = self.source.taps[scores_of(self.source, tap.name)]
        if any(scores.name not in prompt.taps for _, prompt, _ in self._rows(tap)):
            return choosing_by(self.source, None, None, limit, scope.counted)
        floor = self._noise(scores, rounding)
        return choosing_by(self.source, self._truth(scores), floor, limit, scope.counted, rounding)

    def _against(self, tap: Tap) -> tuple[str | None, ...]:
        return tuple(p.name if p is not None and tap.name in p.taps else None for p in self.prompts)

    def _rows(self, tap: Tap) -> Iterator[tuple[int, CaseEntry, np.ndarray]]:
        """The rows that are compared: (row, prompt, where its tokens are)."""
        mask = self.source.golden.case(self.entry.name).mask
        for row, prompt in enumerate(self.prompts):
            if prompt is not None and tap.name in prompt.taps:
                yield row, prompt, np.flatnonzero(mask[row])

    def _truth(self, tap: Tap) -> Float[np.ndarray, "..."]:
        rows = []
        for row, prompt, tokens in self._rows(tap):
            alone = self.source.truth(prompt.name, tap.name)
            counted = self.source.as_counted(self.entry.name, tap.name, alone, slice(row, row + 1))
            rows.append((row, counted[0], tokens))
        return along.in_rows(tap, rows, *self.entry.shape)

    def _largest(self, tap: Tap) -> Largest | None:
        """Which logits the rows' prompts have; None of others, and where they have all."""
        rows = [(row, self.source.largest(prompt.name, tap.name), at) for row, prompt, at in self._rows(tap)]
        known = [(row, alone, tokens) for row, alone, tokens in rows if alone is not None]
        if not known:
            return None
        ids = np.zeros((*self.entry.shape, known[0][1].ids.shape[-1]), np.int32)  # [B, S, rank]
        for row, alone, tokens in known:
            ids[row, tokens] = alone.ids[0]
        return replace(known[0][1], ids=ids, top=None)

    def _noise(self, tap: Tap, rounding: str | None) -> Floor | None:
        """PyTorch's own error in the prompts; over more keys the same error has a smaller rms."""
        whole = Floor.nowhere(self.entry.shape)
        for row, prompt, tokens in self._rows(tap):
            floor = self.source.at(rounding).noise(prompt, "forward", tap.name)
            if floor is None:
                return None
            for values, own in zip(whole.arrays, floor.arrays, strict=True):
                values[row, tokens] = own[0]
            if "key" in tap.dims:
                whole.rms[row] *= np.sqrt(len(tokens) / self.entry.shape[1])
        return whole

    def _scope(self, tap: Tap) -> Scope:
        counted = np.zeros(self.entry.shape, bool)
        for row, _, tokens in self._rows(tap):
            counted[row, tokens] = True
        return Scope(counted, np.arange(self.entry.shape[1]), self.entry.calls)
