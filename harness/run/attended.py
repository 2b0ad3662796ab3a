"""What attention reads of every slot, and how wrong that may be where the inputs are goldens.

Keys and values that are taps, or lie in a cache, are goldens themselves. Latent attention makes those of earlier
calls' tokens anew of its cache, and an absorbed product has them nowhere: they count as large as the products that
they are sums of.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float

Rows = Float[np.ndarray, "slot size"]
Latents = Float[np.ndarray, "slot rank"]
Matrix = Float[np.ndarray, "size rank"]


class Attended(NamedTuple):
    """Keys or values of one head, [slot, size].

    Attributes:
        values: the golden.
        sizes: what a product with them is bounded by.
        wrong: the largest error that they come with, the rounding of a golden on its way in aside.
    """

    values: Rows
    sizes: Rows
    wrong: Rows

    @classmethod
    def given(cls, values: Rows) -> Self:
        """Goldens."""
        return cls(values, np.abs(values), np.zeros_like(values))

    @classmethod
    def made(cls, values: Rows, latents: Latents, matrix: Matrix, earlier: int, rounding: float) -> Self:
        """Goldens, but for those of the first slots, which are made of latents.

        Args:
            earlier: how many slots are of earlier calls.
            rounding: of such a sum, as a share of the sizes of its products.
        """
        found = cls.given(values)
        sizes = np.abs(latents[:earlier]) @ np.abs(matrix).T  # [slot, rank] -> [slot, size]
        found.sizes[:earlier], found.wrong[:earlier] = sizes, rounding * sizes
        return found

    def beside(self, other: Attended) -> Attended:
        """The other's dimensions behind these."""
        return Attended(*(np.concatenate(both, axis=1) for both in zip(self, other, strict=True)))

    def of(self, slots: np.ndarray) -> Attended:
        """Some slots alone."""
        return Attended(*(one[slots] for one in self))
