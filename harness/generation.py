"""Free-running greedy generation: how far a port writes what the reference wrote, and the first difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from harness.results import Flip
from harness.top import margin as margin_of


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
        what = "a tie" if self.mismatch.tie else "a real divergence"
        margin = f"margin {'at least ' * self.mismatch.at_least}{self.mismatch.margin:.2g}"
        return (
            f"{line}, then {what}: token {self.mismatch.actual} for {self.mismatch.golden}, {margin}, "
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
        by, at_least = margin_of(logits, ids, golden, actual)
    return Flip(position, golden, actual, by, noise, tie=by <= 2 * noise, at_least=at_least)
