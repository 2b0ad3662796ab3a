"""Mode `alone`: each row of a batch against the golden of the prompt that has the very same tokens.

The prompts' goldens are laid out as the batch is, so that one comparison sees all rows. A row's padding is not
compared; as a key of `probs` it gets the weight 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float, Num

from harness import along, tolerances
from harness.along import Case, Scope
from harness.calibration import Floor
from harness.choice import Choosing
from harness.comparison import Place, compare
from harness.golden import CaseEntry
from harness.results import TapResult
from harness.run.choices import choosing_by, scores_of
from harness.run.source import GoldenSource
from harness.store import Golden
from harness.taps import CACHE_KINDS, PINNED, Tap, kind_of
from harness.tolerances import Limit

if TYPE_CHECKING:
    from harness.top import Largest


def prompts_of(golden: Golden, entry: CaseEntry) -> tuple[CaseEntry | None, ...]:
    """For each row of a batch the prompt with the same token ids at the same positions, recorded the deepest.

    None where the golden has no such prompt, or keeps only some of its positions; no rows where the case is no
    batch.
    """
    if entry.shape[0] == 1 or entry.kept:
        return ()
    batch = golden.case(entry.name)
    single = [case for case in golden.manifest.cases if case.shape[0] == 1 and not (case.cached or case.kept)]
    return tuple(_same(golden, single, batch, row) for row in range(batch.batch))


def _same(golden: Golden, single: list[CaseEntry], batch: Case, row: int) -> CaseEntry | None:
    real = batch.mask[row]
    ids, positions = batch.input_ids[row][real], batch.positions[row][real]
    same = [
        entry
        for entry in single
        if entry.shape[1] == len(ids)
        and np.array_equal(golden.case(entry.name).input_ids[0], ids)
        and np.array_equal(golden.case(entry.name).positions[0], positions)
    ]
    return max(same, key=lambda entry: len(entry.taps), default=None)


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
    limit: Limit
    limit_at: Callable[[str], Limit] = tolerances.limit
    mode: ClassVar[str] = "alone"

    def wants(self, tap: Tap) -> bool:
        """Whether a prompt has this tap: a prompt has no cache; and of choices what they are judged by."""
        return tap.kind not in CACHE_KINDS and any(self._against(tap)) and self._says_why(tap)

    def _says_why(self, tap: Tap) -> bool:
        """Whether the rows' prompts have the scores of a choice, by which alone it may be a tie."""
        if tap.kind not in PINNED or self.source.precision == "float64":
            return True
        scores = scores_of(self.source, tap.name)
        return all(scores in prompt.taps for _, prompt, _ in self._rows(tap))

    def result(
        self, tap: Tap, actual: Num[np.ndarray, "..."], dtype: str, rounding: str | None = None
    ) -> TapResult:
        """Compare the batch's value, of all calls together, with the rows' prompts."""
        place = Place(self.entry.name, self.source.precision, self.mode, tap, rounding)
        truth, noise, scope = self._truth(tap), self._noise(tap, rounding), self._scope(tap)
        limit = self.limit if rounding is None else self.limit_at(rounding)
        largest = self._largest(tap)
        if largest is None:
            choices = self._choosing(tap, scope, limit, rounding) if tap.kind in PINNED else None
            result = compare(place, actual, truth, noise, limit, dtype, scope, choosing=choices)
        elif actual.shape != largest.shape:
            result = place.result("shape", f"{largest.shape} [{', '.join(tap.dims)}]", str(actual.shape))
        else:
            statistics = largest.statistics(actual, truth)
            result = compare(place, largest.of(actual), truth, noise, limit, dtype, scope, statistics)
            result = largest.named(result, scope.positions)
        return replace(result, against=self._against(tap))

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
