"""The free value of a mutant that explains a port best."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float

from harness.mutants.bench import layer_of
from harness.mutants.diagnosis.hypothesis import NOTHING, Hypothesis
from harness.mutants.diagnosis.prediction import Predictor
from harness.mutants.diagnosis.replay import StageReplay
from harness.mutants.mutant import Mutant

STARTS = 3
STEPS = 8
SPACINGS = {"float64": 1e-6, "float32": 1e-2, "bfloat16": 0.1}
# A step never goes further: tenfold, where the unknown is a logarithm.
LONGEST = 2.3
# A size that is so many times smaller or larger than any that is tried is another bug, or none.
BEYOND = 4.0
Residual = Callable[[float], Float[np.ndarray, " n"] | None]


def fitted(
    mutant: Mutant, predictor: Predictor, replay: StageReplay, kind: str, layers: int, below: Hypothesis = NOTHING
) -> Iterator[Hypothesis]:
    """A mutant with other values, fitted to one tap of one replay; the fit that begins best comes first.

    Args:
        mutant: one with a free value.
        below: what is planted as well; the mutant goes around it.
    """
    free = mutant.free
    assert free is not None
    seen = replay.taps[kind]
    actual = np.asarray(seen.actual, np.float64).ravel()

    def planted(value: float) -> Hypothesis:
        own = at(mutant, value)
        return own if below is NOTHING else below.together(own) or own

    def residual(value: float) -> Float[np.ndarray, " n"] | None:
        predicted = predictor.predict(planted(value), replay, until=kind)
        if predicted is None or kind not in predicted or predicted[kind].size != actual.size:
            return None
        difference = actual - np.asarray(predicted[kind], np.float64).ravel()
        return difference if np.isfinite(difference).all() else None

    grid = [v for v in free.tried if not free.by_layer or (v < layers and v != layer_of(replay.stage))]
    tried = [(float(r @ r), value) for value in grid if (r := residual(value)) is not None]
    best = sorted(tried)[: 1 if free.counts else STARTS]
    whole, spacing = seen.from_golden.square, SPACINGS[replay.taps[kind].precision]
    for left, value in best:
        if left > whole and left > best[0][0]:
            continue  # worse than the golden itself, and not the only start
        if free.counts or value == 0:
            yield planted(value)
        elif min(free.tried) >= 0:  # a size: its logarithm is free
            nearest = float(
                np.exp(gauss_newton(lambda x: residual(float(np.exp(x))), float(np.log(value)), spacing))
            )
            if min(free.tried) / BEYOND <= nearest <= max(free.tried) * BEYOND:
                yield planted(nearest)
        else:
            yield planted(gauss_newton(residual, value, spacing))


def at(mutant: Mutant, value: float) -> Hypothesis:
    """A mutant with a free value, at another one than its own."""
    free = mutant.free
    assert free is not None
    wrong = free.wrong.format(f"{value:.6g}") if free.wrong else mutant.wrong
    return Hypothesis((mutant,), (free.change(value),), free.words(value), (wrong,))


def gauss_newton(residual: Residual, start: float, spacing: float = 1e-6) -> float:
    """The value near `start` at which sum(residual^2) is least.

    One unknown, so that a step is J . r / J . J, J by finite differences. A step that makes it worse is halved.

    Args:
        residual: value -> what is left to explain; None where that value is impossible.
        spacing: the step of the finite differences, relative to the value; it has to show above rounding.
    """
    value, r = start, residual(start)
    for _ in range(STEPS):
        h = spacing * max(abs(value), 1.0)
        ahead = residual(value + h)
        if r is None or ahead is None:
            break
        slope = (r - ahead) / h
        if not slope.any():
            break
        step = float(np.clip(slope @ r / (slope @ slope), -LONGEST, LONGEST))
        for _ in range(6):
            moved = residual(value + step)
            if moved is not None and moved @ moved < r @ r:
                break
            step /= 2
        else:
            break
        value, r = value + step, moved
    return value
