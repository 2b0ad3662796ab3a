"""Which taps of the golden a value equals within the noise, in any layout that its shape allows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

import jax.numpy as jnp
import numpy as np
from jaxtyping import Num

from harness.architecture import Architecture
from harness.comparison import Place, compare
from harness.golden import CaseEntry
from harness.run.adapters.layout import ZEROS, adaptation, without_zeros
from harness.run.adapters.table import fixed_sizes
from harness.run.proposing.layouts import layouts
from harness.run.question import BOTH
from harness.run.source import GoldenSource
from harness.run.tracing.program import AS_IT_IS, Adaptation
from harness.taps import Tap
from harness.tolerances import limit

# Further off than this, as a share of the tap's own size, a value is no rounding of it.
FAR = {"float64": 1e-4, "float32": 1e-2, "bfloat16": 0.5}
SAMPLE = 512  # numbers that are looked at first


@dataclass(frozen=True)
class Match:
    """A value that is a tap.

    Attributes:
        layout: of the value; None is the tap's own.
        multiple: the larger of its errors, in PyTorch's own, and `allowed` the limit there.
    """

    tap: str
    layout: str | None
    multiple: float
    allowed: float


class Matcher:
    """Compares values with all taps of one case.

    Attributes:
        graph: all taps of the golden, in data-flow order.
        taps: those that are looked for, by name.
    """

    def __init__(self, source: GoldenSource, case: CaseEntry, arch: Architecture) -> None:
        self._source, self._case, self._arch = source, case, arch
        self.graph = tuple(source.taps.values())
        self.taps: dict[str, Tap] = {
            name: source.taps[name] for name in case.taps if not _cached(source.taps[name])
        }
        self._sizes = tuple(arch.sizes(*case.shape).items())
        self._fixed = fixed_sizes(arch)
        self._by_dims: dict[tuple[str, ...], list[Tap]] = defaultdict(list)
        for tap in self.taps.values():
            self._by_dims[tap.dims].append(tap)
        self._limit = limit(source.precision)
        self._known: dict[tuple[object, ...], list[Match]] = {}
        self._samples: dict[tuple[str, ...], np.ndarray] = {}

    def golden(self, tap: str, layout: str | None, shape: tuple[int, ...]) -> Num[np.ndarray, "..."]:
        """A tap's value at the precision, as the model has it, in an array of that shape."""
        value = self._source.rounded(self._case.name, tap)
        if not _is_padded(layout):
            return np.asarray(self._adapted(layout, self.taps[tap]).from_tap(value))
        plain, cut = without_zeros(layout or "", self._fixed)
        own = self._adapted(plain, self.taps[tap]).from_tap(value)
        return np.asarray(cut.put_back(own, jnp.zeros(shape, own.dtype))) if cut else np.asarray(own)

    def fitting(self, shape: tuple[int, ...]) -> Iterator[tuple[tuple[str, ...], str | None]]:
        """The dimensions of taps, with a layout, that a value of this shape could have."""
        for dims in self._by_dims:
            for layout in layouts(dims, self._sizes, shape):
                yield dims, layout

    def matches(self, value: Num[np.ndarray, "..."]) -> list[Match]:
        """The taps that a value equals, each in the plainest layout."""
        key = (
            value.shape,
            value.dtype.name,
            blake2b(np.ascontiguousarray(value).tobytes(), digest_size=16).digest(),
        )
        if key not in self._known:  # one run after the other has the same values above the place that is tried
            self._known[key] = self._found(value)
        return self._known[key]

    def _found(self, value: Num[np.ndarray, "..."]) -> list[Match]:
        matches: dict[str, Match] = {}
        for dims, layout in self.fitting(value.shape):
            taps = self._by_dims[dims]
            seen = self._as_tap(value, layout, taps[0])
            for at in np.flatnonzero(self._distances(dims, seen) < FAR[self._source.precision]):
                tap = taps[at]
                match = self._compared(tap, layout, seen) if tap.name not in matches else None
                if match is not None:
                    matches[tap.name] = match
        return list(matches.values())

    def are_logits(self, value: Num[np.ndarray, "..."]) -> bool | None:
        """Whether a model returned the golden's logits; None where that has none, or the largest alone."""
        if "logits" not in self._case.taps or self._case.top:
            return None
        return self._compared(self._source.taps["logits"], None, value) is not None

    def distance(self, value: Num[np.ndarray, "..."], tap: str, layout: str | None) -> float:
        """How far a value is from a tap, as a share of the tap's size."""
        truth = self._source.truth(self._case.name, tap)
        seen = self._as_tap(value, layout, self.taps[tap]).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # what hides a score is as large as a float can be
            return float(np.linalg.norm(seen - truth) / (np.linalg.norm(truth) or 1.0))

    def same(self, tap: str, other: str) -> bool:
        """Whether two taps have the same golden values."""
        first, second = (self._source.truth(self._case.name, name) for name in (tap, other))
        return self.taps[tap].dims == self.taps[other].dims and np.array_equal(first, second)

    def _distances(self, dims: tuple[str, ...], seen: np.ndarray) -> np.ndarray:
        """From a sample of every tap of these dimensions."""
        step = -(-seen.size // SAMPLE)
        if dims not in self._samples:
            values = [self._source.truth(self._case.name, tap.name).ravel()[::step] for tap in self._by_dims[dims]]
            self._samples[dims] = np.stack(values)
        truths = self._samples[dims]
        with np.errstate(over="ignore", invalid="ignore"):
            off = np.linalg.norm(truths - seen.ravel()[::step].astype(np.float64), axis=-1)
        return np.asarray(off / np.maximum(np.linalg.norm(truths, axis=-1), 1e-300))

    def _compared(self, tap: Tap, layout: str | None, seen: np.ndarray) -> Match | None:
        """Within the noise of a pass on golden values, or of one that comes from further away."""
        truth, scope = self._source.truth(self._case.name, tap.name), self._source.scope(self._case.name)
        for mode in reversed(BOTH):
            place, noise = Place(self._case.name, self._source.precision, mode, tap), None
            noise = self._source.noise(self._case, mode, tap.name)
            result = compare(place, seen, truth, noise, self._limit, seen.dtype.name, scope)
            if result.verdict == "match":
                return Match(tap.name, layout, result.rms_multiple or 0.0, result.rms_limit or 0.0)
        return None

    def _as_tap(self, value: Num[np.ndarray, "..."], layout: str | None, tap: Tap) -> Num[np.ndarray, "..."]:
        """A value in the layout of its tap. NaN where what is cut off it is not zeros: it is no tap then."""
        if not _is_padded(layout):
            return np.asarray(self._adapted(layout, tap).to_tap(value))
        plain, cut = without_zeros(layout or "", self._fixed)
        left, rest = cut.taken(jnp.asarray(value)) if cut else (value, 0)
        seen = np.asarray(self._adapted(plain, tap).to_tap(np.asarray(left)))
        return np.full_like(seen, np.nan) if np.any(np.asarray(rest) != 0) else seen

    def _adapted(self, layout: str | None, tap: Tap) -> Adaptation:
        return AS_IT_IS if layout is None else adaptation(layout, tap, self._fixed)


def _is_padded(layout: str | None) -> bool:
    return layout is not None and ZEROS.search(layout) is not None


def _cached(tap: Tap) -> bool:
    return "slot" in tap.dims or tap.kind == "logits"
