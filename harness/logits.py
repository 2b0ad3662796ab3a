"""What logits say of the tokens of a case: KL, flips of the most likely token, and which of these are ties.

And of a port that writes on by itself, greedily: how far it writes what the reference wrote, and the first
difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Num

from harness import metrics
from harness.along import Scope
from harness.results import Flip, LogitStatistics, finite

Statistics = Callable[[metrics.Errors, metrics.PerPosition, Scope], LogitStatistics | None]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What two sets of logits predict.

    Attributes:
        kl: KL(softmax(expected) || softmax(actual)) of each row, in nats; infinite where `actual` is not finite.
        chosen, expected: the most likely token of each row.
    """

    kl: Float[np.ndarray, " row"]
    chosen: Int[np.ndarray, " row"]
    expected: Int[np.ndarray, " row"]


def predictions(actual: Float[np.ndarray, "row vocab"], expected: Float[np.ndarray, "row vocab"]) -> Predictions:
    """Compare what logits predict, a few rows at a time: a vocabulary is long."""
    rows, vocab = expected.shape
    kl, chosen, golden = np.zeros(rows), np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    step = max(1, metrics.BLOCK // max(1, vocab))

    def block(here: slice) -> None:
        own, truth = (np.array(logits[here], np.float64) for logits in (actual, expected))
        chosen[here], golden[here] = own.argmax(-1), truth.argmax(-1)
        with np.errstate(invalid="ignore", over="ignore"):
            kl[here] = _divergence(own, truth)

    list(metrics.each(block, rows, step, expected.size))
    # Rounding can leave -1e-17 for equal inputs; the divergence itself is never negative.
    return Predictions(np.where(np.isfinite(kl), np.maximum(kl, 0.0), np.inf), chosen, golden)


def _divergence(
    actual: Float[np.ndarray, "row vocab"], expected: Float[np.ndarray, "row vocab"]
) -> Float[np.ndarray, " row"]:
    """sum p (log p - log q), where log p - log q is the difference of the logits but for two sums over all.

    Both are overwritten.
    """
    actual -= actual.max(-1, keepdims=True)
    expected -= expected.max(-1, keepdims=True)
    weights = np.exp(expected)
    shift = np.subtract(expected, actual, out=expected)
    total, actual_total = weights.sum(-1), np.exp(actual, out=actual).sum(-1)
    return np.asarray(np.einsum("rv,rv->r", weights, shift) / total - np.log(total) + np.log(actual_total))


def of_all(
    actual: Num[np.ndarray, "batch position vocab"], truth: Float[np.ndarray, "batch position vocab"]
) -> Statistics:
    """What the usual criteria say of all logits."""

    def statistics(error: metrics.Errors, noise: metrics.PerPosition, scope: Scope) -> LogitStatistics:
        whole = scope.counted.all()
        rows, expected = (x.reshape(-1, x.shape[-1]) if whole else x[scope.counted] for x in (actual, truth))
        predicted = predictions(rows, expected)

        def flip(n: int) -> tuple[float, bool]:
            golden, chosen = int(predicted.expected[n]), int(predicted.chosen[n])
            return float(expected[n, golden] - expected[n, chosen]), False

        common = statistics_of(predicted.kl, predicted.chosen, predicted.expected, flip, noise, scope)
        return replace(common, nmse=finite(error.nmse), pcc=metrics.pcc(rows, expected))

    return statistics


def statistics_of(
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


def margin(
    logits: Float[np.ndarray, " rank"], ids: Int[np.ndarray, " rank"], golden: int, chosen: int
) -> tuple[float, bool]:
    """By how much the golden prefers its own token over another one, and whether it is only known to be that much.

    A token that is not among the stored ones has at most the smallest of their logits.
    """
    place = {int(token): rank for rank, token in enumerate(ids)}
    own = float(logits[place.get(golden, 0)])
    return own - float(logits[place.get(chosen, -1)]), chosen not in place


@dataclass(frozen=True)
class Continuation:
    """A port's greedy continuation of one case beside the reference's.

    Attributes:
        tokens: how many the reference wrote.
        agreed: how many of them the port wrote too, before the first other one.
        pytorch: how many PyTorch itself writes at this precision, before the first other one than in float64; None
            where that was not recorded.
        mismatch: the first other token. It is a tie where the golden prefers its own by no more than twice
            PyTorch's own largest logit error there: each of the two logits may move by that.
    """

    case: str
    precision: str
    tokens: int
    agreed: int
    pytorch: int | None = None
    mismatch: Flip | None = None

    @property
    def verdict(self) -> Literal["match", "diverged"]:
        """A tie is no divergence."""
        return "match" if self.mismatch is None or self.mismatch.tie else "diverged"

    @property
    def text(self) -> str:
        """One line for a person."""
        line = f"{self.agreed} of {self.tokens} tokens as the reference wrote them"
        if self.pytorch is not None and self.pytorch < self.tokens:
            line += f" (PyTorch itself: {self.pytorch})"
        if self.mismatch is None:
            return line
        outcome = "a tie" if self.mismatch.tie else "a real divergence"
        margin = f"margin {'at least ' * self.mismatch.at_least}{self.mismatch.margin:.2g}"
        return (
            f"{line}, then {outcome}: token {self.mismatch.actual} for {self.mismatch.golden}, {margin}, "
            f"PyTorch's own noise {self.mismatch.noise:.2g}"
        )


def agreement(written: Sequence[int], reference: Sequence[int]) -> int:
    """How many tokens at the beginning are the same."""
    different = (n for n, (a, b) in enumerate(zip(written, reference, strict=False)) if a != b)
    return next(different, min(len(written), len(reference)))


def first_mismatch(
    position: int,
    golden: int,
    actual: int,
    logits: Float[np.ndarray, " rank"],
    noise: float,
    ids: Int[np.ndarray, " rank"] | None = None,
) -> Flip:
    """The first other token, judged.

    Args:
        position: of the token from which it was written.
        logits: truth there.
        noise: PyTorch's own largest logit error there, at the precision.
        ids: which logits they are, where these are the largest alone; None means all.
    """
    at_least = False
    if ids is None:
        by = float(logits[golden] - logits[actual])
    else:
        by, at_least = margin(logits, ids, golden, actual)
    return Flip(position, golden, actual, by, noise, tie=by <= 2 * noise, at_least=at_least)
