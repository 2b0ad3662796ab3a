"""PyTorch's own error -> how large an error a correct port can have. The method: calibration.md.

`limits` are the noise multiples that a correct port exceeds with a stated probability, where its errors are
independent of PyTorch's and as large. (scipy is imported when it is needed: a report is read without it.)
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Bool

from harness.calibration import Floor
from harness.metrics import PerPosition

# The chance of a correct port to be beyond a limit, in one comparison.
BUDGET = 1e-9
# The errors of neighbouring positions are not independent: so much of their degrees of freedom count together.
TOGETHER = 0.25


@functools.lru_cache(maxsize=2048)  # a floor is compared with in several modes, and by every mutant
def limits(floor: Floor, chance: float, reordered: bool = False) -> tuple[PerPosition, PerPosition]:
    """The noise multiples, rms and max, that a correct port exceeds with this chance, in one place.

    The square of the rms multiple is a ratio of two mean squares: F(dof, known). The largest of n Gaussian errors
    is beyond a bound with at most n times the chance of one, whose square over the floor's is F(1, known); the
    floor of the largest is what n of them typically have. n is how many contest it, for not all are of one size.

    Args:
        reordered: whether sums in another order are part of a correct port's rounding. A number's error then has a
            size of its own, not PyTorch's: that of its partial sums. See `_largest_reordered`.
    """
    few = floor.contested
    ratio = _f_quantile(floor.dof, floor.known, chance)
    extreme = _f_quantile(np.ones_like(few), floor.known_max, chance / few) / _typical(few)
    if reordered:
        square = _largest_reordered(floor.numbers, chance)
        ratio = np.maximum(ratio, square / floor.numbers)  # where numbers are few, one of them is the rms
        extreme = np.maximum(extreme, square / _typical(floor.numbers))
    rms, largest = (np.sqrt(np.where(floor.estimated, square, 1.0)) for square in (ratio, extreme))
    return rms, largest


def _largest_reordered(numbers: PerPosition, chance: float) -> PerPosition:
    """What the square of the largest of n errors of reordered sums, of variance 1, exceeds with this chance.

    A sum's error is Gaussian with the variance of its partial sums, which are a random walk of their own in every
    number. With an exponentially distributed variance it is Laplace's: P(|e| > t) = exp(-sqrt(2) t).
    """
    return np.asarray(np.square(np.log(numbers / chance)) / 2)


def _f_quantile(dof: PerPosition, known: PerPosition, chance: PerPosition | float) -> PerPosition:
    """What F(dof, known) exceeds with this chance."""
    from scipy.special import betaincinv

    tail = betaincinv(known / 2, dof / 2, chance)
    return np.asarray(known * (1 - tail) / (dof * tail))


def _typical(numbers: PerPosition) -> PerPosition:
    """The mean of the largest of n squared Gaussian numbers.

    In the Gumbel limit it is where n times the tail is e^-gamma; n + 0.77 brings n = 1 to its mean, which is 1,
    and whatever is between to within 1 %.
    """
    from scipy.special import gammainccinv

    return np.asarray(2 * gammainccinv(0.5, np.exp(-np.euler_gamma) / (numbers + 0.77)))


def overall_limit(floor: Floor, counted: Bool[np.ndarray, "batch position"], chance: float) -> float:
    """The same for the root of the mean, over all positions, of the squared rms multiples.

    Where every position is a little noisier than PyTorch no single one is unusual, and all of them together are.
    """
    alone, known = (1 / float((1 / values[counted]).mean()) for values in (floor.dof, floor.known))
    dof = max(TOGETHER * int(counted.sum()), 1.0) * alone
    known = max(known, dof)
    return float(np.sqrt(_f_quantile(np.array(dof), np.array(known), chance)))


def rms_chance(multiple: PerPosition, floor: Floor, reordered: bool = False) -> PerPosition:
    """The chance of a port whose errors are as large as PyTorch's to have such an rms multiple or more."""
    from scipy.special import betainc

    with np.errstate(over="ignore"):
        share = floor.known / (floor.known + floor.dof * np.square(multiple))
    chance = betainc(floor.known / 2, floor.dof / 2, share)
    if reordered:
        one = floor.numbers * np.exp(-np.sqrt(2 * floor.numbers) * multiple)
        chance = np.where(floor.estimated, np.maximum(chance, np.minimum(one, 1.0)), chance)
    return np.asarray(chance)
