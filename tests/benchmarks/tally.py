"""What comparisons of correct ports came to: shares of their limits, and how their noise is distributed.

A tally is plain data that can be added up, written and read again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from harness.calibration import Floor
from harness.results import TapResult
from harness.run.source import GoldenSource
from harness.taps import kind_of
from harness.tolerances import LIMITS, rms_chance

STATISTICS = ("rms", "max", "overall")
DECADES = 12  # chances are counted down to 1e-12
FEWEST = 30  # places of a kind of tap that a median is taken of


@dataclass
class Tally:
    """Comparisons added up.

    Attributes:
        comparisons: by precision and mode.
        alarms: the comparisons that did not match, in words.
        largest: by precision, mode and statistic the largest share of its limit, and where.
        allowed: by precision and mode, how many places had a chance below 1, 1e-1, 1e-2 and so on, under the
            model with its allowance.
        normalised: the same for F(dof, known) and the port's own median in the place of the allowance.
        ratios: by precision, mode, kind of tap and port the median of rms / floor, over what the model expects of
            it; the largest of all rounds.
    """

    comparisons: dict[str, int] = field(default_factory=dict)
    alarms: list[str] = field(default_factory=list)
    largest: dict[str, tuple[float, str]] = field(default_factory=dict)
    allowed: dict[str, list[int]] = field(default_factory=dict)
    normalised: dict[str, list[int]] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    rounds: int = 0
    seconds: float = 0.0

    @property
    def total(self) -> int:
        return sum(self.comparisons.values())

    @classmethod
    def read(cls, path: Path) -> Tally:
        return cls(**json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=1))
        partial.replace(path)

    def add(self, port: str, checkpoint: str, results: Iterable[TapResult]) -> None:
        """Count comparisons, and keep the largest shares."""
        for result in results:
            key = f"{result.precision} {result.mode}"
            self.comparisons[key] = self.comparisons.get(key, 0) + 1
            place = f"{result.tap} of {result.case}, {port}, {checkpoint}"
            if result.verdict != "match":
                self.alarms.append(f"{key}: {result.verdict} at {place}, {result.shares}, {result.found}")
            for statistic, share in zip(STATISTICS, result.shares, strict=True):
                name = f"{key} {statistic}"
                if share > self.largest.get(name, (0.0, ""))[0]:
                    self.largest[name] = (share, place)

    def fit(self, port: str, source: GoldenSource, results: Iterable[TapResult]) -> None:
        """Count how likely each place was, in forward and replay of single prompts."""
        by_kind: dict[tuple[str, str], list[tuple[np.ndarray, Floor]]] = {}
        for result in results:
            case = source.golden.manifest.case(result.case)
            if result.mode not in ("forward", "replay") or case.shape[0] > 1 or case.cached:
                continue
            floor = source.noise(case, result.mode, result.tap)
            assert floor is not None
            multiples = np.array([[np.nan if value is None else value for value in result.profile]])
            by_kind.setdefault((result.mode, kind_of(result.tap)), []).append((multiples, floor))
        for (mode, kind), places in by_kind.items():
            multiples, floor = _joined(places)
            if not len(multiples):
                continue
            key, limit = f"{source.precision} {mode}", LIMITS[source.precision]
            chances = rms_chance(multiples / limit.allowances(floor), floor, limit.reordered)
            _count(self.allowed.setdefault(key, [0] * (DECADES + 1)), chances)
            if len(multiples) < FEWEST:
                continue
            ratio = _median_ratio(multiples, floor)
            if ratio > 0:
                _count(self.normalised.setdefault(key, [0] * (DECADES + 1)), rms_chance(multiples / ratio, floor))
                name = f"{key} {kind} {port}"
                self.ratios[name] = max(ratio, self.ratios.get(name, 0.0))


def _joined(places: list[tuple[np.ndarray, Floor]]) -> tuple[Float[np.ndarray, " place"], Floor]:
    """The places where something was estimated, in one line."""
    chosen = [(values[f.estimated], [a[f.estimated] for a in f.arrays]) for values, f in places]
    multiples = np.concatenate([values for values, _ in chosen])
    arrays = [np.concatenate(parts) for parts in zip(*(arrays for _, arrays in chosen), strict=True)]
    finite = np.isfinite(multiples)
    return multiples[finite], Floor(*(array[finite] for array in arrays))


def _median_ratio(multiples: np.ndarray, floor: Floor) -> float:
    """What the multiples are divided by so that half of them are above the model's median."""
    low, high = 1e-3, 1e3
    for _ in range(40):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if np.median(rms_chance(multiples / middle, floor)) < 0.5 else (low, middle)
    return high if high > 2e-3 else 0.0


def _count(counts: list[int], chances: np.ndarray) -> None:
    for decade in range(DECADES + 1):
        counts[decade] += int((chances < 10.0**-decade).sum()) if decade else len(chances)
