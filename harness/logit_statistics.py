"""What the usual criteria say of logits: KL, flips of the most likely token, and which of these are ties."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int, Num

from harness import metrics
from harness.results import Flip, LogitStatistics, finite
from harness.scope import Scope
from harness.top import Top, kl_bounds, margin

Statistics = Callable[[metrics.Errors, metrics.PerPosition, Scope], LogitStatistics | None]


def of_all(
    actual: Num[np.ndarray, "batch position vocab"], truth: Float[np.ndarray, "batch position vocab"]
) -> Statistics:
    """What the usual criteria say of all logits."""

    def statistics(error: metrics.Errors, noise: metrics.PerPosition, scope: Scope) -> LogitStatistics:
        every = scope.counted.all()
        rows, expected = (x.reshape(-1, x.shape[-1]) if every else x[scope.counted] for x in (actual, truth))
        predicted = metrics.predictions(rows, expected)

        def flip(n: int) -> tuple[float, bool]:
            golden, chosen = int(predicted.expected[n]), int(predicted.chosen[n])
            return float(expected[n, golden] - expected[n, chosen]), False

        found = _statistics(predicted.kl, predicted.chosen, predicted.expected, flip, noise, scope)
        return replace(found, nmse=finite(error.nmse), pcc=metrics.pcc(rows, expected))

    return statistics


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

        found = _statistics(high, chosen, ids[:, 0], flip, noise, scope)
        own = np.take_along_axis(rows, ids.astype(np.int64), -1)
        return replace(
            found,
            nmse=finite(error.nmse),
            pcc=metrics.pcc(own, expected),
            top=ids.shape[-1],
            mean_kl_low=finite(low.mean()),
            max_kl_low=finite(low.max()),
        )

    return statistics


def _statistics(
    kl: Float[np.ndarray, " row"],
    chosen: Int[np.ndarray, " row"],
    golden: Int[np.ndarray, " row"],
    flip: Callable[[int], tuple[float, bool]],
    noise: metrics.PerPosition,
    scope: Scope,
) -> LogitStatistics:
    """KL and top-1 over the tokens that are counted, in their order.

    Args:
        flip: the margin of one of them, and whether it is only known to be that much.
    """
    at = np.argwhere(scope.counted)
    flips = []
    for n in map(int, np.flatnonzero(chosen != golden)):
        row, position = map(int, at[n])
        (by, at_least), allowed = flip(n), float(noise[row, position])
        token = int(scope.positions[position])
        tie = by <= 2 * allowed
        flips.append(Flip(token, int(golden[n]), int(chosen[n]), by, allowed, tie, row, at_least))
    return LogitStatistics(
        mean_kl=finite(kl.mean()),
        p99_kl=finite(np.quantile(kl, 0.99)) if np.isfinite(kl).all() else None,
        max_kl=finite(kl.max()),
        top1_agreement=1 - len(flips) / len(kl),
        flips=tuple(flips),
        nmse=None,
        pcc=None,
        positions=len(kl),
    )
