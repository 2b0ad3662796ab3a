"""The port's logits where the golden has the largest alone: what is compared, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int, Num

from harness.logit_statistics import Statistics, of_largest
from harness.results import TapResult
from harness.top import Top


@dataclass(frozen=True, eq=False)
class Largest:
    """The ids of the largest logits at the tokens of a comparison.

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
