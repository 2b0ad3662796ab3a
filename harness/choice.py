"""Which experts a token goes to: whether another choice than the golden's is a tie, beyond the noise, or a drop.

A choice is the set of experts whose weight is not 0. It is made by scores, and these have an error. Another choice
is a tie where scores that each move by no more than a correct port's may move explain it; how far they have to, is
its gap, which is twice that: one score moves up, another down.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from harness.families.options import Experts
from harness.results import Choice, Choices, Drop

Routing = Num[np.ndarray, "batch position expert"]
Scores = Float[np.ndarray, "*token expert"]
Chosen = Bool[np.ndarray, "*token expert"]
Gaps = Float[np.ndarray, " *token"]
PerToken = Bool[np.ndarray, "batch position"]

MOST_DROPS, MOST_TOKENS = 64, 64  # that a result names; it counts them all


@dataclass(frozen=True, eq=False)
class Choosing:
    """What choices are judged by.

    Attributes:
        scores: the golden's, by which experts are chosen; None where it has none: no other choice is a tie then.
        allowed: how much each score of a token may move.
    """

    experts: Experts
    scores: Float[np.ndarray, "batch position expert"] | None
    allowed: Float[np.ndarray, "batch position"]


@dataclass(frozen=True, eq=False)
class Judged:
    """The choices of one comparison: the tokens where they are ties, and those where they are wrong or dropped."""

    choices: Choices
    tied: PerToken
    wrong: PerToken


def judged(
    choosing: Choosing,
    actual: Routing,
    expected: Routing,
    counted: PerToken,
    positions: Int[np.ndarray, " position"],
) -> Judged:
    """Judge the choices of a port.

    Args:
        actual: the weight of every expert in the port.
        expected: the same in the golden; or in another run of the port, whose choice may be another one too.
        counted: False at padding.
        positions: which of the case's tokens these are.
    """
    own, theirs = actual != 0, expected != 0
    differs = (own != theirs).any(axis=-1) & counted
    fewer = differs & (own.sum(axis=-1) < choosing.experts.chosen)
    gap = np.full(counted.shape, np.inf)
    # A value that is not finite is an error, whatever its expert.
    explained = differs & np.isfinite(actual.astype(np.float64)).all(axis=-1)
    if choosing.scores is not None and explained.any():
        scores = choosing.scores[explained]
        gap[explained] = np.maximum(*(gaps(choosing.experts, scores, side[explained]) for side in (own, theirs)))
    allowed = 2 * choosing.allowed
    tied = differs & (gap <= allowed)
    wrong = differs & ~tied

    def widest(tokens: PerToken) -> Choice | None:
        if not tokens.any():
            return None
        beyond = np.where(tokens, np.where(np.isfinite(gap), gap - allowed, np.finfo(float).max), -np.inf)
        row, token = np.unravel_index(int(beyond.argmax()), gap.shape)
        return Choice(
            row=int(row),
            position=int(positions[token]),
            golden=tuple(np.flatnonzero(theirs[row, token]).tolist()),
            actual=tuple(np.flatnonzero(own[row, token]).tolist()),
            gap=float(gap[row, token]) if np.isfinite(gap[row, token]) else None,
            allowed=float(allowed[row, token]),
        )

    choices = Choices(
        tokens=int(counted.sum()),
        ties=int(tied.sum()),
        wrong=int((wrong & ~fewer).sum()),
        dropped=int(fewer.sum()),
        tie=widest(tied),
        worst=widest(wrong & ~fewer),
        drops=tuple(_drops(theirs & ~own & fewer[..., None], positions))[:MOST_DROPS],
    )
    return Judged(choices, tied, wrong)


def _drops(
    lacking: Bool[np.ndarray, "batch position expert"], positions: Int[np.ndarray, " position"]
) -> Iterator[Drop]:
    """Which tokens each expert lacks, row by row."""
    for row, expert in np.argwhere(lacking.any(axis=1)):
        tokens = positions[lacking[row, :, expert]].tolist()
        yield Drop(int(expert), int(row), len(tokens), tuple(tokens[:MOST_TOKENS]))


def gaps(experts: Experts, scores: Scores, chosen: Chosen) -> Gaps:
    """How far scores have to move for these choices: by half of it each, and not at all where it is 0 or less.

    Infinite where no move explains it: a choice of more or fewer experts, or of more groups.
    """
    low = np.where(chosen, scores, np.inf).min(axis=-1)
    if experts.chosen_groups == experts.groups:
        gap = np.where(chosen, -np.inf, scores).max(axis=-1) - low
    else:
        gap = _gaps_in_groups(experts, _by_group(experts, scores), _by_group(experts, chosen), low)
    gap = np.where(np.isnan(gap), np.inf, gap)
    return np.asarray(np.where(chosen.sum(axis=-1) == experts.chosen, gap, np.inf))


def _gaps_in_groups(
    experts: Experts,
    scores: Float[np.ndarray, "*token group member"],
    chosen: Bool[np.ndarray, "*token group member"],
    low: Gaps,
) -> Gaps:
    """The same where experts are chosen within groups that are chosen first.

    Which groups those were is known as far as an expert of theirs was chosen. Of the others any may have been
    whose own experts are not too good to be left out: for every bound on that, the best of them are taken.
    """
    touched = chosen.any(axis=-1)  # [token, group]
    left = np.where(chosen, -np.inf, scores).max(axis=-1)
    of_group, moves = group_scores(experts, scores)
    missing = experts.chosen_groups - touched.sum(axis=-1)
    bounds = np.sort(np.where(touched, np.inf, left), axis=-1)
    least = np.full(low.shape, np.inf)
    for bound in np.moveaxis(bounds, -1, 0):
        able = ~touched & (left <= bound[..., None])
        rank = np.argsort(np.argsort(np.where(able, -of_group, np.inf), axis=-1, kind="stable"), axis=-1)
        filled = able & (rank < missing[..., None])
        inside = touched | filled
        by_expert = np.where(inside, left, -np.inf).max(axis=-1) - low
        outside, lowest = (
            np.where(inside, -np.inf, of_group).max(axis=-1),
            np.where(inside, of_group, np.inf).min(axis=-1),
        )
        needed = np.maximum(by_expert, (outside - lowest) / moves)
        least = np.where(filled.sum(axis=-1) == missing, np.minimum(least, needed), least)
    return least


def margins(experts: Experts, scores: Scores) -> Gaps:
    """How far scores have to move, at least, for any other choice than the one that they make."""
    margin = np.full(scores.shape[:-1], np.inf)
    if experts.chosen_groups < experts.groups:
        by_group = _by_group(experts, scores)
        of_group, moves = group_scores(experts, by_group)
        margin = _last_over_next(of_group, experts.chosen_groups) / moves
        rank = np.argsort(np.argsort(-of_group, axis=-1, kind="stable"), axis=-1)
        scores = np.where((rank < experts.chosen_groups)[..., None], by_group, -np.inf).reshape(scores.shape)
    if experts.chosen == experts.count:
        return margin
    return np.asarray(np.minimum(margin, _last_over_next(scores, experts.chosen)))


def _last_over_next(values: Scores, count: int) -> Gaps:
    ordered = -np.sort(-values, axis=-1)
    return np.asarray(ordered[..., count - 1] - ordered[..., count])


def group_scores(
    experts: Experts, scores: Float[np.ndarray, "*token group member"]
) -> tuple[Float[np.ndarray, "*token group"], int]:
    """What a group is chosen by, and how many scores it is the sum of."""
    count = min(2, scores.shape[-1]) if experts.group_by == "best_two" else 1
    return np.sort(scores, axis=-1)[..., -count:].sum(axis=-1), count


def _by_group(experts: Experts, values: np.ndarray) -> np.ndarray:
    return values.reshape(*values.shape[:-1], experts.groups, -1)
