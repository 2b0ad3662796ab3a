"""How well a candidate explains what a port did in a scene."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.mutants.diagnosis.bench import Scene


@dataclass(frozen=True)
class Match:
    """A candidate against one scene.

    Attributes:
        reproduced: faulty kinds at which the port computes what the candidate computes, within the noise.
        unexplained: faulty kinds at which it does not.
        overreached: kinds at which the candidate is wrong and the port is right.
        explained: by faulty kind, the share of the port's squared error that the candidate explains; at most 1.
        rms: by faulty kind, the port's distance from the candidate in noise multiples.
    """

    reproduced: frozenset[str]
    unexplained: frozenset[str]
    overreached: frozenset[str]
    explained: Mapping[str, float]
    rms: Mapping[str, float]


def match(
    scene: Scene, predicted: Mapping[str, np.ndarray], exactly: Mapping[str, np.ndarray] | None = None
) -> Match:
    """Compare a port's values with a candidate's, tap by tap.

    A tap at which the candidate has another shape than the port is unexplained. `exactly` is what the candidate
    computes in float64, where its own rounding has to be allowed for.
    """
    reproduced: set[str] = set()
    unexplained: set[str] = set()
    overreached: set[str] = set()
    explained: dict[str, float] = {}
    rms: dict[str, float] = {}
    for kind, seen in scene.taps.items():
        if kind not in predicted:
            continue
        fits = predicted[kind].shape == seen.actual.shape
        wrong = seen.faulty
        if not fits:
            unexplained.add(kind)
            continue
        distance = seen.to(predicted[kind], None if exactly is None else exactly.get(kind))
        if wrong:
            (reproduced if distance.within else unexplained).add(kind)
            explained[kind] = share(distance.square, seen.from_golden.square)
            rms[kind] = distance.rms
        elif not distance.within:
            overreached.add(kind)
    return Match(frozenset(reproduced), frozenset(unexplained), frozenset(overreached), explained, rms)


def share(left: float, whole: float) -> float:
    """1 - left / whole: the part of a squared error that is explained. Negative where it grew."""
    if not np.isfinite(whole):
        return 1.0 if np.isfinite(left) else 0.0
    return 1.0 - left / whole if np.isfinite(left) and whole > 0 else float("-inf")
