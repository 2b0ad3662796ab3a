"""KL within bounds, from the largest logits alone: the true one always lies between them."""

from __future__ import annotations

import numpy as np
import pytest

from harness.comparison import Place, compare
from harness.logits import first_mismatch, margin, predictions
from harness.taps import Tap
from harness.tolerances import limit
from harness.top import Top, kl_bounds, of_largest

VOCAB = 300
LOGITS = Tap("logits", ("batch", "position", "vocab"), ())


def top_of(truth, count):
    """What a recorder keeps, in numpy."""
    ids = np.argsort(-truth, axis=-1, kind="stable")[..., :count]
    total = np.log(np.exp(truth).sum(-1))
    p = np.exp(truth - total[..., None])
    np.put_along_axis(p, ids, 0.0, -1)
    top = Top(ids.astype(np.int32), total, p.sum(-1), (p * truth).sum(-1))
    return np.take_along_axis(truth, ids, -1), top


def logits(seed, scale):
    return np.random.default_rng(seed).normal(size=(1, 4, VOCAB)) * scale


def bounds(actual, truth, count):
    kept, top = top_of(truth, count)
    where = np.nonzero(np.ones((1, 4), bool))
    return kl_bounds(actual[where], kept[where], top, where)


@pytest.mark.parametrize("scale", [0.1, 2.0, 6.0])
@pytest.mark.parametrize("wrong", [0.0, 1e-6, 0.1, 3.0])
def test_the_divergence_lies_between_its_bounds_and_they_close_in(scale, wrong):
    truth = logits(1, scale)
    actual = truth + wrong * logits(2, 1.0)
    exact = predictions(actual[0], truth[0]).kl
    widths = []
    for count in (2, 20, 150, VOCAB - 1):
        low, high = bounds(actual, truth, count)
        assert (low <= exact + 1e-12).all() and (exact <= high + 1e-12).all()
        widths.append((high - low).max())
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 1e-12, "one that is left out is known by the sum of all"


def test_the_worst_that_can_be_is_the_bound():
    """Two others of equal probability, at most that of the smallest that is stored: each may be either."""
    truth = np.log(np.array([[[0.4, 0.3, 0.15, 0.15]]]))
    kept, top = top_of(truth, 2)
    where = np.nonzero(np.ones((1, 1), bool))
    actual = np.log(np.array([[[0.4, 0.3, 0.2, 0.1]]]))
    [low], [high] = kl_bounds(actual[where], kept[where], top, where)
    # All of the 0.3 on one of them is allowed: no more than the 0.3 of the smallest that is stored.
    known = 2 * 0.15 * np.log(0.15)
    assert high == pytest.approx(known - 0.3 * np.log(0.1))
    assert low == pytest.approx(max(0.0, known - 0.3 * np.log(0.2)))


def test_what_is_not_finite_diverges_without_end():
    truth = logits(1, 2.0)
    actual = truth.copy()
    actual[0, 2, 7] = np.nan
    low, high = bounds(actual, truth, 8)
    assert np.isinf(low[2]) and np.isinf(high[2]) and np.isfinite(high[[0, 1, 3]]).all()


def test_a_comparison_of_the_largest_finds_what_is_wrong_among_them_and_who_is_first_among_all():
    truth = logits(3, 2.0)
    kept, top = top_of(truth, 8)
    actual = truth.copy()
    outsider = int(np.argmin(truth[0, 1]))
    actual[0, 1, outsider] = truth[0, 1].max() + 1  # not among the largest
    actual[0, 2, top.ids[0, 2, 1]] = truth[0, 2].max() + 1
    place = Place("a", "float64", "forward", LOGITS)
    own = np.take_along_axis(actual, top.ids.astype(int), -1)
    statistics = of_largest(actual, kept, top)
    result = compare(place, own, kept, None, limit("float64"), "float64", None, statistics)
    assert result.verdict == "diverged" and result.worst.index["position"] == 2
    found = result.logits
    assert (found.top, found.positions, found.top1_agreement) == (8, 4, 0.5)
    first, second = found.flips
    assert (first.position, first.actual, first.at_least, first.tie) == (1, outsider, True, False)
    assert first.margin == pytest.approx(kept[0, 1, 0] - kept[0, 1, -1])
    assert (second.position, second.at_least) == (2, False)
    assert second.margin == pytest.approx(kept[0, 2, 0] - kept[0, 2, 1])
    exact = predictions(actual[0], truth[0]).kl.max()
    assert found.max_kl_low <= exact <= found.max_kl and found.max_kl_low > 0.08


def test_a_margin_that_is_not_known_is_at_least_that_of_the_smallest():
    kept, ids = np.array([5.0, 4.0, 1.0]), np.array([7, 2, 9])
    assert margin(kept, ids, 7, 2) == (1.0, False)
    assert margin(kept, ids, 7, 3) == (4.0, True)
    assert first_mismatch(3, 7, 3, kept, 1.0, ids).tie is False
    unsure = first_mismatch(3, 7, 3, kept, 2.5, ids)
    assert unsure.tie and unsure.at_least, "it may be one, so it is none that is wrong"
