"""The largest logits of every position, where a golden has these alone: what they say of all the others.

Stored are the k largest and their ids, the logarithm of the sum of the exponentials of all, how much probability
the others have, and the sum of their logits weighted by it. A port's logits are all there. So KL(golden || port)
is known but for one number, the mean of the port's logits over the others, weighted by the golden's probabilities.
Each of these is at most that of the smallest that was stored, and their sum is known: so it has bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, Num

from harness import metrics
from harness.along import Scope
from harness.logits import Statistics, margin, statistics_of
from harness.results import LogitStatistics, TapResult, finite

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


@dataclass(frozen=True, eq=False)
class Largest:
    """The ids of the largest logits at the tokens of a comparison: what of the port's is compared, and how.

    Attributes:
        vocabulary: how many logits the port has.
        top: what else the golden knows; None where that is of other tokens.
    """

    ids: Int[np.ndarray, "batch position rank"]
    vocabulary: int
    top: Top | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """What the port's logits have to be."""
        return *self.ids.shape[:2], self.vocabulary

    def of(self, logits: Num[np.ndarray, "..."]) -> Num[np.ndarray, "..."]:
        """Of all logits those that the golden has."""
        return np.take_along_axis(logits, self.ids.astype(np.int64), axis=-1)

    def statistics(self, actual: Num[np.ndarray, "..."], truth: Num[np.ndarray, "..."]) -> Statistics:
        """What the usual criteria say of them; nothing where the golden's other figures are of other tokens."""
        if self.top is None:
            return lambda *_: None
        return of_largest(actual, truth, self.top)

    def named(self, result: TapResult, positions: Sequence[int] | np.ndarray) -> TapResult:
        """The result, with the id of the worst logit in place of its rank.

        Args:
            positions: which of the case's tokens were compared.
        """
        if result.worst is None:
            return result
        at = result.worst.index
        place = int(np.flatnonzero(np.asarray(positions) == at["position"])[0])
        index = {**at, "vocab": int(self.ids[at["batch"], place, at["vocab"]])}
        return replace(result, worst=replace(result.worst, index=index))


def of_largest(
    actual: Num[np.ndarray, "batch position vocab"], truth: Float[np.ndarray, "batch position rank"], top: Top
) -> Statistics:
    """The same where the golden has the largest logits alone.

    Args:
        actual: all of the port's.
    """

    def statistics(error: metrics.Errors, noise: metrics.PerPosition, scope: Scope) -> LogitStatistics:
        row, position = np.nonzero(scope.counted)
        where = row, position
        rows, expected, ids = actual[where], truth[where], top.ids[where]
        low, high = kl_bounds(rows, expected, top, where)
        chosen = rows.argmax(-1)

        def flip(n: int) -> tuple[float, bool]:
            return margin(expected[n], ids[n], int(ids[n, 0]), int(chosen[n]))

        common = statistics_of(high, chosen, ids[:, 0], flip, noise, scope)
        own = np.take_along_axis(rows, ids.astype(np.int64), -1)
        return replace(
            common,
            nmse=finite(error.nmse),
            pcc=metrics.pcc(own, expected),
            top=ids.shape[-1],
            mean_kl_low=finite(low.mean()),
            max_kl_low=finite(low.max()),
        )

    return statistics


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
    bounds = [
        _bounds(
            np.asarray(own, np.float64),
            np.asarray(stored, np.float64),
            top.ids[row, position],
            float(top.log_sum_exp[row, position]),
            float(top.outside[row, position]),
            float(top.outside_logit[row, position]),
        )
        for own, stored, row, position in zip(actual, logits, *where, strict=True)
    ]
    low, high = np.array(bounds).T
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
