"""The largest logits of every position, where a golden has these alone: what they say of all the others.

Stored are the k largest and their ids, the logarithm of the sum of the exponentials of all, how much probability
the others have, and the sum of their logits weighted by it. A port's logits are all there. So KL(golden || port)
is known but for one number, the mean of the port's logits over the others, weighted by the golden's probabilities.
Each of these is at most that of the smallest that was stored, and their sum is known: so it has bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num

SMALLEST = 1e-300  # of a probability that divides


@dataclass(frozen=True, eq=False)
class Top:
    """What a golden has of one case's logits beside the largest themselves, at the positions that it keeps.

    Attributes:
        ids: of the largest, largest first.
        log_sum_exp: over the whole vocabulary.
        outside: the probability of all others.
        outside_logit: the sum of their logits, each times its probability.
    """

    ids: Int[np.ndarray, "batch position rank"]
    log_sum_exp: Float[np.ndarray, "batch position"]
    outside: Float[np.ndarray, "batch position"]
    outside_logit: Float[np.ndarray, "batch position"]


def margin(
    logits: Float[np.ndarray, " rank"], ids: Int[np.ndarray, " rank"], golden: int, chosen: int
) -> tuple[float, bool]:
    """By how much the golden prefers its own token over another one, and whether it is only known to be that much.

    A token that is not among the stored ones has at most the smallest of their logits.
    """
    place = {int(token): rank for rank, token in enumerate(ids)}
    own = float(logits[place.get(golden, 0)])
    return own - float(logits[place.get(chosen, -1)]), chosen not in place


def kl_bounds(
    actual: Num[np.ndarray, "row vocab"],
    logits: Float[np.ndarray, "row rank"],
    top: Top,
    where: tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]],
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """Between which KL(golden || port) lies, row by row, in nats; infinite where the port's are not finite.

    Args:
        actual: all of the port's logits.
        logits: the golden's largest.
        where: rows and positions of the case that these are.
    """
    found = [
        _bounds(
            np.asarray(one, np.float64),
            np.asarray(stored, np.float64),
            top.ids[row, position],
            float(top.log_sum_exp[row, position]),
            float(top.outside[row, position]),
            float(top.outside_logit[row, position]),
        )
        for one, stored, row, position in zip(actual, logits, *where, strict=True)
    ]
    low, high = np.array(found).T
    return low, high


def _bounds(
    actual: Float[np.ndarray, " vocab"],
    logits: Float[np.ndarray, " rank"],
    ids: Int[np.ndarray, " rank"],
    log_sum_exp: float,
    outside: float,
    outside_logit: float,
) -> tuple[float, float]:
    """Of one row."""
    if not np.isfinite(actual).all():
        return np.inf, np.inf
    others = np.ones(len(actual), bool)
    others[ids] = False
    high = actual.max()
    weights = np.exp(actual - high)
    total = weights.sum()
    own = np.log(total) + high  # the port's own log-sum-exp
    probabilities = np.exp(logits - log_sum_exp)
    # sum p log p over everything, less what p log q is over the stored ones.
    inside = probabilities @ ((logits - log_sum_exp) - (actual[ids] - own))
    rest = outside_logit - outside * log_sum_exp + outside * own
    least, most = _weighted(actual[others], outside, max(float(probabilities.min()), SMALLEST))
    # Taken together the others diverge no more than one by one.
    of_port = weights[others].sum() / total
    together = outside * np.log(outside / of_port) if outside > 0 and of_port > 0 else 0.0
    lower = max(inside + rest - most, inside + together, 0.0)
    return float(lower), float(max(inside + rest - least, lower))


def _weighted(values: Float[np.ndarray, " other"], mass: float, largest: float) -> tuple[float, float]:
    """The least and the most of a weighted sum, of weights of that mass of which none is larger than `largest`."""
    last = len(values) - 1
    whole = min(int(mass / largest), last)
    left = mass - whole * largest
    ordered = np.partition(values, sorted({whole, last - whole}))
    least = largest * ordered[:whole].sum() + left * ordered[whole]
    most = largest * ordered[last - whole + 1 :].sum() + left * ordered[last - whole]
    return float(least), float(most)
