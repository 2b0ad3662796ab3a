"""The golden as a check at one precision reads it: truth, truth rounded, noise, and which tokens count.

The values used last are kept, bounded by the memory that they take (an LRU cache).
"""

from __future__ import annotations

import functools
import math
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from harness import along
from harness.along import Case, Scope
from harness.architecture import architecture_of
from harness.calibration import Floor, Recorded, calibrated
from harness.families.frequencies import frequencies, turn
from harness.families.options import Rope
from harness.golden import CaseEntry
from harness.layout import layer_of, size_of
from harness.run.precision import jax_dtype, round_to
from harness.store import Golden
from harness.taps import FULL_KINDS, PINNED, Tap

if TYPE_CHECKING:
    from harness.top import Largest

# What holds the absolute position. Nothing else of a decoder with RoPE does.
TURNED = frozenset({"q_rope", "k_rope", "cache_k", "k_pe_rope", "cache_k_pe"})
# Forward and replay of a case ask for the same taps one after the other, layer by layer: what is kept is a layer
# that is compared, one that waits for it and one that is read meanwhile, or the logits. That grows neither in
# depth nor with the cases. Of a small golden all is kept: it is read once for all that a process asks of it.
LEAST_KEPT, MOST_KEPT = 32 * 2**20, 512 * 2**20
# By golden, precision and mode: what several checks in one process need (a test run, a diff, a diagnosis).
MOST_CALIBRATED = 8
_CALIBRATED: dict[tuple[str, str, str], dict[str, dict[str, Floor]]] = {}
_WORKING_SETS: dict[str, int] = {}


class GoldenSource:
    """Golden values at one precision, each read and verified once for forward and replay together.

    Args:
        keep: how many bytes of the latest values to keep, and as many numbers at the precision; None is what a run
            layer by layer has in use.
        from_pads: whether positions of left-padded rows count from the pads (`shifts`).

    Attributes:
        experts: of a mixture of experts; None of other models.
    """

    def __init__(self, golden: Golden, precision: str, keep: int | None = None, from_pads: bool = False) -> None:
        self.golden = golden
        self.precision = precision
        self.taps: Mapping[str, Tap] = {tap.name: tap for tap in golden.manifest.taps}
        self.from_pads = from_pads
        architecture = architecture_of(golden.manifest.model.config)
        self._ropes, self.experts = architecture.ropes, architecture.experts
        keep = _working_set(golden) if keep is None else keep
        self.truth = CachedArrays(self._truth, keep)
        itemsize = jax_dtype(precision).itemsize, np.dtype(golden.manifest.truth_dtype).itemsize
        self.rounded = CachedArrays(self._rounded, keep * itemsize[0] // itemsize[1])
        self._floors = functools.cache(self._calibrated)
        self.scope = functools.cache(self._scope)
        self._largest = functools.cache(self._of_largest)
        self._case = functools.cache(golden.case)
        self._at = functools.cache(lambda p: GoldenSource(golden, p, keep))

    def at(self, precision: str | None) -> GoldenSource:
        """The same golden at another precision, for its noise; None is this one."""
        return self if precision in (None, self.precision) else self._at(precision)

    def read(self, case: str, taps: Sequence[str], replaying: bool) -> None:
        """Have these values ready for who asks for them next."""
        for tap in taps:
            self.truth(case, tap)
            if replaying and tap != "logits":
                self.rounded(case, tap)

    def forget(self) -> None:
        """Release all values."""
        self.truth.forget()
        self.rounded.forget()

    def _truth(self, case: str, tap: str) -> Float[np.ndarray, "..."]:
        return self.as_counted(case, tap, self.golden.tap(case, tap))

    def as_counted(
        self, case: str, tap: str, value: Float[np.ndarray, "batch ..."], rows: slice = slice(None)
    ) -> Float[np.ndarray, "batch ..."]:
        """A golden value of some rows of a case, as the port counts the positions of that case."""
        if not self.from_pads or self.taps[tap].kind not in TURNED:
            return value
        by, rope = shifts(self._case(case))[rows], self._ropes[layer_of(tap) or 0]
        return turned(value, by, rope) if rope and by.any() else value

    def _rounded(self, case: str, tap: str) -> Num[np.ndarray, "..."]:
        """Truth at the precision, over all positions of the case; NaN at padding, and where none is kept.

        There the port's own values go on: what it makes of padding must not reach real tokens.
        """
        value = round_to(self.truth(case, tap), self.precision)
        entry, of_tap = self.golden.manifest.case(case), self.taps[tap]
        if not (real := self._case(case).mask).all():
            return along.without_padding(of_tap, value, real)
        if not entry.kept or of_tap.kind in FULL_KINDS:
            return value
        return along.spread(of_tap, value, entry.shape[1], entry.kept)

    def largest(self, case: str, tap: str) -> Largest | None:
        """Which logits of a case the golden has, at the kept positions; None of another tap, and where it has all.

        Raises:
            GoldenError: they are damaged.
        """
        return self._largest(case) if self.golden.manifest.case(case).top and tap == "logits" else None

    def _of_largest(self, case: str) -> Largest:
        from harness.top import Largest, Top

        top = Top(**self.golden.top(case))
        return Largest(top.ids, size_of(self.golden.manifest.sizes, self.taps["logits"], "vocab"), top)

    def blank(self, case: str, tap: str) -> Num[np.ndarray, "..."]:
        """In the form of a rounded golden, what is given where nothing is replaced, and takes no memory.

        Zeros that nobody looks at, but NaN where a port could be pinned.
        """
        entry, of_tap = self.golden.manifest.case(case), self.taps[tap]
        shape = list(self.golden.shape(case, tap))
        if entry.kept and of_tap.kind not in FULL_KINDS:
            shape[of_tap.position_axis] = entry.shape[1]
        nothing = np.nan if of_tap.kind in PINNED else 0.0
        return np.broadcast_to(np.array(nothing, jax_dtype(self.precision)), shape)

    def _scope(self, case: str) -> Scope:
        """The tokens of a case that are compared: no padding, and the kept ones where only some are."""
        entry = self.golden.manifest.case(case)
        positions = np.asarray(entry.kept or range(entry.shape[1]))
        return Scope(self._case(case).mask[:, positions], positions, entry.calls)

    def noise(self, case: CaseEntry, mode: str, tap: str) -> Floor | None:
        """PyTorch's own error at a tap; None at float64, for which none is recorded."""
        return None if self.precision == "float64" else self._floors(mode)[case.name][tap]

    def _calibrated(self, mode: str) -> dict[str, dict[str, Floor]]:
        key = self.golden.id, self.precision, mode
        if key not in _CALIBRATED:
            if len(_CALIBRATED) >= MOST_CALIBRATED:
                _CALIBRATED.clear()
            _CALIBRATED[key] = calibrated(
                {
                    case.name: Recorded(
                        case.taps,
                        self.golden.noise(case.name, self.precision, mode),
                        self.scope(case.name).counted,
                        case.draws,
                        self._single(case),
                    )
                    for case in self.golden.manifest.cases
                }
            )
        return _CALIBRATED[key]

    def _single(self, case: CaseEntry) -> Bool[np.ndarray, "batch position"]:
        """Which of the compared tokens are calls of their own, in a batch of one."""
        scope, own = self.scope(case.name), self._case(case.name)
        single = np.zeros(own.length, bool)
        for span in own.spans:
            single[span] = span.stop - span.start == own.batch == 1
        return np.broadcast_to(single[scope.positions], scope.counted.shape)


def _working_set(golden: Golden) -> int:
    """How many bytes of a golden are in use at a time where a port runs layer by layer."""
    if golden.id not in _WORKING_SETS:
        _WORKING_SETS[golden.id] = _counted_working_set(golden)
    return _WORKING_SETS[golden.id]


def _counted_working_set(golden: Golden) -> int:
    manifest = golden.manifest
    stages = {tap.name: tap.stage for tap in manifest.taps}
    most = LEAST_KEPT
    for case in manifest.cases:
        sizes = Counter[str]()
        for tap in case.taps:
            sizes[stages[tap]] += math.prod(golden.shape(case.name, tap)) * np.dtype(manifest.truth_dtype).itemsize
        most = max(most, *(size * (3 if stage else 1) for stage, size in sizes.items()))
    return min(most, MOST_KEPT)


class LRUCache:
    """The latest values by key, up to a number of bytes; what takes more than that is not kept.

    Args:
        most: bytes.
    """

    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._making: dict[Hashable, Future[Any]] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], tuple[Any, int]]) -> Any:
        """The value of a key; `make` gives it where it is not kept, with its bytes.

        Whoever asks for what another thread is making waits for it.
        """
        own = Future[Any]()
        try:  # whatever comes, a signal as well: nobody is to wait for what nobody makes
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key][0]
                made = self._making.setdefault(key, own)
            if made is not own:
                return made.result()
            value, size = make()
            with self._lock:
                if size <= self._most:
                    self._kept[key] = value, size
                    self._bytes += size
                while self._bytes > self._most:
                    self._bytes -= self._kept.popitem(last=False)[1][1]
            own.set_result(value)
            return value
        except BaseException as error:
            if not own.done():
                own.set_exception(error)
            raise
        finally:
            with self._lock:
                if self._making.get(key) is own:
                    del self._making[key]

    def forget(self) -> None:
        """Release everything."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0


class CachedArrays(LRUCache):
    """A function of names whose latest arrays are kept.

    Args:
        make: called for what is not kept; its arrays are shared, and not to be changed.
        most: bytes that they may take.
    """

    def __init__(self, make: Callable[..., np.ndarray], most: int) -> None:
        super().__init__(most)
        self._make = make

    def __call__(self, *names: str) -> np.ndarray:
        """The array of these names."""
        array: np.ndarray = self.get(names, lambda: ((made := self._make(*names)), made.nbytes))
        return array


def shifts(case: Case) -> Int[np.ndarray, " batch"]:
    """By row, by how much positions that count from the row's beginning exceed the golden's."""
    first = case.mask.argmax(axis=1)
    rows = np.arange(case.batch)
    padded = first > 0
    return np.where(padded, first - case.positions[rows, first], 0)


def turned(
    value: Float[np.ndarray, "batch position ... head_dim"], by: Int[np.ndarray, " batch"], rope: Rope
) -> Float[np.ndarray, "batch position ... head_dim"]:
    """Queries or keys after RoPE, as they are at positions that are larger by so much in each row."""
    return turn(value, by.reshape(-1, *[1] * (value.ndim - 1)) * frequencies(rope)[0], rope)
