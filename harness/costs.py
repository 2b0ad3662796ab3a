"""What the parts of a golden take, in bytes, as its manifest says: without the headers of its file.

And what is lost where truth is stored more narrowly than it was computed, beside PyTorch's own error.

Rounding to float32 moves a number by half an ulp of float32 at most. At a precision whose half ulp is as large,
that is at most one multiple of noise, since no floor is smaller; at bfloat16 it is 2^-16 of one. It is **small**
where it is at most a third of the limit (`harness.tolerances.is_small`): errors add up in quadrature, so a port
that is at its limit against the exact truth is at most at 1.054 of it against the stored one. Where it is not
small a check is refused: float64, whose half-ulps are 2^29 times smaller, and float32 under limits that were
tightened.

A pair of float32 whose sum is the truth would lose nothing, but it has 8 bytes, as float64 has: there is none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from harness.golden import NOISE_KINDS, Form, Manifest, statistic
from harness.layout import Layout
from harness.metrics import UNIT_ROUNDOFF, per_position
from harness.store import Golden

PARTS = ("logits", "other taps", "noise", "inputs and what was generated")
Costs = Mapping[str, Mapping[str, int]]  # by case, by part


def nbytes(form: Form) -> int:
    """What an array of this form takes."""
    return math.prod(form.shape) * np.dtype(form.dtype).itemsize


def costs(manifest: Manifest) -> Costs:
    """What each part of each case takes. The list of arrays is not asked: it may not be there yet."""
    by_case: dict[str, Counter[str]] = {case.name: Counter() for case in manifest.cases}
    for path, form in Layout(manifest).forms():
        _, case, *rest = path.split("/")
        by_case[case][_part(rest)] += nbytes(form)
    return by_case


def by_part(by_case: Costs) -> dict[str, int]:
    """The same over all cases, in the order of `PARTS`."""
    return {part: sum(parts.get(part, 0) for parts in by_case.values()) for part in PARTS}


def _part(rest: list[str]) -> str:
    if rest[0] == "taps":
        return "logits" if rest[-1] == "logits" else "other taps"
    return {"noise": "noise", "top": "logits"}.get(rest[0], PARTS[-1])


@dataclass(frozen=True)
class Loss:
    """Half an ulp of a stored truth over the rms of PyTorch's own error, at all places of one case.

    Attributes:
        median, largest: over taps and positions at which PyTorch is not exact.
    """

    precision: str
    kind: str
    median: float
    largest: float


def losses(golden: Golden) -> Iterator[Loss]:
    """By precision and kind of noise, measured in the shortest of the cases that recorded the most taps.

    Raises:
        GoldenError: an array is damaged.
    """
    manifest = golden.manifest
    entry = min(manifest.cases, key=lambda case: (-len(case.taps), case.shape[1]))
    axes = {tap.name: tap.position_axis for tap in manifest.taps}
    tokens = list(entry.kept or range(entry.shape[1]))
    counted = golden.case(entry.name).mask[:, tokens]
    unit = UNIT_ROUNDOFF[manifest.truth_dtype]
    halves = []  # by tap, half an ulp at every counted position
    for tap in entry.taps:
        rms, _ = per_position(golden.tap(entry.name, tap), axes[tap])
        halves.append(unit * (rms[:, tokens] if rms.shape[1] > len(tokens) else rms)[counted])
    for precision in manifest.precisions:
        for kind in NOISE_KINDS:
            own = golden.noise(entry.name, precision, kind)[:, statistic("rms")][:, counted]
            there = own > 0
            ratios = np.stack(halves)[there] / own[there]
            if len(ratios):
                yield Loss(precision, kind, float(np.median(ratios)), float(ratios.max()))


def said(golden: Golden) -> str | None:
    """The loss in a sentence; None where nothing is lost.

    Raises:
        GoldenError: an array is damaged.
    """
    dtype = golden.manifest.truth_dtype
    if dtype == "float64":
        return None
    by_precision: dict[str, list[str]] = {}
    for loss in losses(golden):
        figures = f"{loss.median:.2g} (up to {loss.largest:.2g}) in {loss.kind}"
        by_precision.setdefault(loss.precision, []).append(figures)
    beside = "; ".join(f"{' and '.join(figures)} at {precision}" for precision, figures in by_precision.items())
    rule = f"truth is rounded to {dtype}: small beside every limit of float32 and bfloat16, not of float64"
    return f"{rule}; half an ulp over PyTorch's own error: {beside}" if beside else rule
