"""The value of a family that explains a port best."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float

from harness.mutants.catalogue import CATALOGUE
from harness.mutants.diagnosis.bench import Bench
from harness.mutants.diagnosis.candidate import Candidate
from harness.mutants.diagnosis.families import Family
from harness.mutants.diagnosis.scene import Scene, layer_of

STARTS = 3
STEPS = 8
NUDGES = {"float64": 1e-6, "float32": 1e-2, "bfloat16": 0.1}
# A step never goes further: tenfold, where the unknown is a logarithm.
LONGEST = 2.3
# A size that is so many times smaller or larger than any that is tried is another bug, or none.
BEYOND = 4.0
BY_ID = {mutant.id: mutant for mutant in CATALOGUE}
Residual = Callable[[float], Float[np.ndarray, " n"] | None]


NOTHING = Candidate((), ())


def fitted(
    family: Family, bench: Bench, scene: Scene, kind: str, layers: int, below: Candidate = NOTHING
) -> Iterator[Candidate]:
    """Candidates of a family, fitted to one tap of one scene; the fit that begins best comes first.

    Args:
        below: what is planted as well; the family goes around it.
    """
    seen = scene.taps[kind]
    actual = np.asarray(seen.actual, np.float64).ravel()

    def planted(value: float) -> Candidate:
        own = at(family, value)
        return own if below is NOTHING else below.together(own) or own

    def residual(value: float) -> Float[np.ndarray, " n"] | None:
        predicted = bench.predict(planted(value), scene, until=kind)
        if predicted is None or kind not in predicted or predicted[kind].size != actual.size:
            return None
        difference = actual - np.asarray(predicted[kind], np.float64).ravel()
        return difference if np.isfinite(difference).all() else None

    grid = [v for v in family.grid if not family.by_layer or (v < layers and v != layer_of(scene.stage))]
    tried = [(float(r @ r), value) for value in grid if (r := residual(value)) is not None]
    best = sorted(tried)[: 1 if family.fixed else STARTS]
    whole, nudge = seen.from_golden.square, NUDGES[scene.taps[kind].precision]
    for left, value in best:
        if left > whole and left > best[0][0]:
            continue  # worse than the golden itself, and not the only start
        if family.fixed or value == 0:
            yield planted(value)
        elif min(family.grid) >= 0:  # a size: its logarithm is free
            free = gauss_newton(lambda x: residual(float(np.exp(x))), float(np.log(value)), nudge)
            if min(family.grid) / BEYOND <= np.exp(free) <= max(family.grid) * BEYOND:
                yield planted(float(np.exp(free)))
        else:
            yield planted(gauss_newton(residual, value, nudge))


def at(family: Family, value: float) -> Candidate:
    """The family's mutant, with a value."""
    mutant = BY_ID[family.mutant]
    return Candidate((mutant,), (family.change(value),), family.words(value), (family.wrong_with(value, mutant),))


def gauss_newton(residual: Residual, start: float, nudge: float = 1e-6) -> float:
    """The value near `start` at which sum(residual^2) is least.

    One unknown, so that a step is J . r / J . J, J by finite differences. A step that makes it worse is halved.

    Args:
        residual: value -> what is left to explain; None where that value is impossible.
        nudge: the step of the finite differences, relative to the value; it has to show above rounding.
    """
    value, r = start, residual(start)
    for _ in range(STEPS):
        h = nudge * max(abs(value), 1.0)
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
