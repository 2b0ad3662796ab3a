"""Choices of experts: what a perturbation of the scores explains is a tie, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from harness.choice import Choosing, gaps, judged, margins
from harness.families.options import Experts

PLAIN = Experts(layers=(True,), count=6, chosen=2, intermediate=4)
BEST = Experts(layers=(True,), count=8, chosen=3, intermediate=4, groups=4, chosen_groups=2)
BEST_TWO = Experts(
    layers=(True,), count=12, chosen=3, intermediate=4, groups=4, chosen_groups=2, group_by="best_two"
)
FEW_OF_MANY = Experts(layers=(True,), count=12, chosen=2, intermediate=4, groups=4, chosen_groups=3)
ALL = (PLAIN, BEST, BEST_TWO, FEW_OF_MANY)


def chosen(experts, scores):
    """As the formulas say it, token by token."""
    found = np.zeros(scores.shape, bool)
    for one, row in zip(found, scores, strict=True):
        groups = row.reshape(experts.groups, -1)
        best = np.sort(groups, axis=-1)[:, -(2 if experts.group_by == "best_two" else 1) :].sum(-1)
        seen = np.isin(np.arange(experts.groups), np.argsort(-best)[: experts.chosen_groups])
        masked = np.where(seen[:, None], groups, -np.inf).reshape(-1)
        one[np.argsort(-masked)[: experts.chosen]] = True
    return found


def routing(experts, scores):
    return np.where(chosen(experts, scores.reshape(-1, experts.count)), 0.5, 0.0).reshape(scores.shape)


@pytest.mark.parametrize("experts", ALL)
@pytest.mark.parametrize("eps", [0.02, 0.3])
def test_whatever_moved_scores_choose_is_explained_by_that_move(experts, eps):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(1000, experts.count)) * rng.choice([0.1, 1.0], (1000, 1))
    moved = scores + eps * rng.choice([-1, -0.5, 0.5, 1], scores.shape)
    others = chosen(experts, moved)
    assert (gaps(experts, scores, others) <= 2 * eps + 1e-12).all()
    # And it is what `margins` calls possible.
    other = (others != chosen(experts, scores)).any(-1)
    assert 20 < other.sum() < 980
    assert (margins(experts, scores)[other] <= 2 * eps + 1e-12).all()


def test_without_groups_a_move_of_half_the_gap_is_what_it_takes():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(200, PLAIN.count))
    own = chosen(PLAIN, rng.normal(size=scores.shape))
    gap = gaps(PLAIN, scores, own)
    for share, reached in ((0.501, True), (0.499, False)):
        moved = scores + np.where(own, 1, -1) * share * np.maximum(gap, 0)[:, None]
        same = (chosen(PLAIN, moved) == own).all(-1)
        assert (same[gap > 0] == reached).all()


@pytest.mark.parametrize("experts", ALL)
def test_the_choice_that_the_scores_make_needs_no_move(experts):
    scores = np.random.default_rng(2).normal(size=(200, experts.count))
    assert (gaps(experts, scores, chosen(experts, scores)) <= 0).all()
    assert (margins(experts, scores) > 0).all()


def test_a_choice_that_ignores_groups_is_no_tie():
    scores = np.array([[5.0, 4.0, 4.5, 0.0, 4.4, 0.0, 0.0, 0.0]])  # groups of two: 5.0, 4.5, 4.4, 0.0
    allowed = chosen(BEST, scores)
    assert np.flatnonzero(allowed).tolist() == [0, 1, 2]
    without = np.zeros_like(allowed)
    without[0, [0, 2, 4]] = True  # three groups
    assert gaps(BEST, scores, without) == np.inf
    third = np.zeros_like(allowed)
    third[0, [0, 1, 4]] = True  # the third group in place of the second: 4.4 for 4.5
    assert gaps(BEST, scores, third) == pytest.approx(0.1)


def test_a_group_that_gives_no_expert_may_have_been_any_that_is_not_too_good():
    # Groups of three, three are chosen, two experts. The golden's groups are 0, 1, 2.
    scores = np.array([[9.0, 8.0, 0.0, 7.9, 0.0, 0.0, 7.8, 0.0, 0.0, 1.0, 0.0, 0.0]])
    own = np.zeros(scores.shape, bool)
    own[0, [0, 9]] = True  # an expert of the last group, which is far from being chosen
    assert gaps(FEW_OF_MANY, scores, own) == pytest.approx(8.0 - 1.0)


def judge(experts, scores, actual, expected, allowed, counted=None):
    shape = scores.shape[:2]
    counted = np.ones(shape, bool) if counted is None else counted
    choosing = Choosing(experts, scores, np.full(shape, allowed))
    return judged(choosing, actual, expected, counted, np.arange(shape[1]))


def near_tie():
    """Two rows of four tokens whose second and third expert are 0.1 apart."""
    scores = np.tile([3.0, 2.0, 1.9, 0.0, -1.0, -2.0], (2, 4, 1))
    expected = routing(PLAIN, scores)
    actual = expected.copy()
    actual[1, 2, [1, 2]] = 0.0, 0.5
    return scores, actual, expected


def test_within_twice_what_a_score_may_move_it_is_a_tie():
    scores, actual, expected = near_tie()
    found = judge(PLAIN, scores, actual, expected, 0.06)
    assert np.argwhere(found.tied).tolist() == [[1, 2]]
    assert not found.wrong.any()
    assert (found.choices.tokens, found.choices.ties, found.choices.wrong, found.choices.dropped) == (8, 1, 0, 0)
    tie = found.choices.tie
    assert (tie.row, tie.position, tie.golden, tie.actual) == (1, 2, (0, 1), (0, 2))
    assert (tie.gap, tie.allowed) == (pytest.approx(0.1), pytest.approx(0.12))


def test_beyond_it_is_wrong():
    scores, actual, expected = near_tie()
    found = judge(PLAIN, scores, actual, expected, 0.04)
    assert np.argwhere(found.wrong).tolist() == [[1, 2]]
    assert not found.tied.any()
    assert found.choices.wrong == 1
    assert found.choices.worst.gap == pytest.approx(0.1)


def test_padding_has_no_choice():
    scores, actual, expected = near_tie()
    counted = np.ones((2, 4), bool)
    counted[1, 2] = False
    found = judge(PLAIN, scores, actual, expected, 0.0, counted)
    assert (found.choices.tokens, found.choices.others) == (7, 0)


def test_in_float64_only_scores_that_are_equal_tie():
    scores, actual, expected = near_tie()
    assert judge(PLAIN, scores, actual, expected, 0.0).choices.wrong == 1
    scores[..., 2] = scores[..., 1]
    assert judge(PLAIN, scores, actual, expected, 0.0).choices.ties == 1


def test_fewer_experts_are_a_drop_and_never_a_tie():
    scores, _, expected = near_tie()
    actual = expected.copy()
    actual[1, 2, 1] = actual[1, 3, 1] = actual[0, 0, 0] = 0.0
    found = judge(PLAIN, scores, actual, expected, 100.0)
    assert (found.choices.ties, found.choices.wrong, found.choices.dropped) == (0, 0, 3)
    assert [(d.expert, d.row, d.count, d.positions) for d in found.choices.drops] == [
        (0, 0, 1, (0,)),
        (1, 1, 2, (2, 3)),
    ]
    assert np.argwhere(found.wrong).tolist() == [[0, 0], [1, 2], [1, 3]]


def test_more_experts_are_wrong_and_never_a_tie():
    scores, _, expected = near_tie()
    actual = expected.copy()
    actual[0, 0, 2] = 0.5
    found = judge(PLAIN, scores, actual, expected, 100.0)
    assert (found.choices.ties, found.choices.wrong, found.choices.dropped) == (0, 1, 0)
    assert found.choices.worst.gap is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_no_tie(value):
    scores, actual, expected = near_tie()
    actual[1, 2, 2] = value
    assert judge(PLAIN, scores, actual, expected, 100.0).choices.wrong == 1


def test_without_scores_no_other_choice_is_a_tie():
    _, actual, expected = near_tie()
    found = judged(
        Choosing(PLAIN, None, np.full((2, 4), 100.0)), actual, expected, np.ones((2, 4), bool), np.arange(4)
    )
    assert (found.choices.wrong, found.choices.worst.gap) == (1, None)


def test_of_two_runs_both_choices_have_to_be_explained():
    scores, actual, expected = near_tie()
    far = expected.copy()
    far[1, 2, [1, 5]] = 0.0, 0.5
    assert judge(PLAIN, scores, expected, actual, 0.06).choices.ties == 1
    assert judge(PLAIN, scores, actual, far, 0.06).choices.wrong == 1
    assert judge(PLAIN, scores, far, far, 0.06).choices.others == 0


def test_a_result_names_the_first_drops_and_counts_all():
    experts = Experts(layers=(True,), count=4, chosen=2, intermediate=4)
    scores = np.tile([3.0, 2.0, 1.0, 0.0], (100, 100, 1))
    expected = routing(experts, scores)
    found = judge(experts, scores, np.zeros_like(expected), expected, 1.0)
    assert found.choices.dropped == 10_000
    assert len(found.choices.drops) == 64
    assert (found.choices.drops[0].count, len(found.choices.drops[0].positions)) == (100, 64)
