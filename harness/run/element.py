"""One number of a golden, what it is computed from, and what attention reads of every slot for it.

Keys and values that are taps, or lie in a cache, are goldens themselves. Latent attention makes those of earlier
calls' tokens anew of its cache, and an absorbed product has them nowhere: they count as large as the products that
they are sums of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float

from harness.architecture import Architecture
from harness.checkpoint import Checkpoint
from harness.families import family_named
from harness.families.parameters import parameter_of
from harness.golden import CaseEntry
from harness.layout import layer_of
from harness.run.source import GoldenSource
from harness.taps import CACHED, kind_of, name_of

# The dimensions that an operation goes through, whatever it is.
WHOLE = frozenset({"slot", "key", "hidden", "intermediate", "head_dim", "value_dim", "q_rank", "kv_rank"})
WHOLE |= {"qk_dim", "rope_dim"}
Rows = Float[np.ndarray, "slot size"]
Latents = Float[np.ndarray, "slot rank"]
Matrix = Float[np.ndarray, "size rank"]


@dataclass(frozen=True, eq=False)
class Element:
    """One number of a tap, and what it is computed from.

    Attributes:
        at: its index, by dimension.
        unit: unit roundoff of the precision.
        wide: that of sums.
    """

    source: GoldenSource
    case: CaseEntry
    weights: Checkpoint
    arch: Architecture
    tap: str
    at: dict[str, int]
    unit: float
    wide: float

    @property
    def stage(self) -> str:
        return self.tap.rpartition(".")[0]

    @property
    def value(self) -> float:
        """The golden."""
        tap = self.source.taps[self.tap]
        return float(self.source.truth(self.case.name, self.tap)[tuple(self.at[dim] for dim in tap.dims)])

    def input(self, which: int = 0) -> np.ndarray:
        """What feeds it, of its own row and position; of keys and values, of its own head, all slots."""
        name = self.source.taps[self.tap].inputs[which]
        kind = CACHED.get(kind_of(name)) if not self.case.cached else None
        name = name_of(self.stage, kind) if kind else name
        dims = self.source.taps[name].dims
        groups = self.arch.heads // self.arch.kv_heads
        at = {**self.at, "kv_head": self.at.get("kv_head", self.at.get("head", 0) // groups)}
        # What a row of `kv` is made of is its own latent, and not that of every slot.
        own = kind_of(self.tap) == "kv"
        whole = WHOLE - {"slot"} if own else WHOLE
        at["slot"] = at.get("position", 0)
        keys = kind is not None and not own  # every position is a key
        index = tuple(
            slice(None) if dim in whole or (keys and dim == "position") or dim not in at else at[dim]
            for dim in dims
        )
        return np.asarray(self.source.truth(self.case.name, name)[index])

    def parameter(self, name: str = "weight") -> np.ndarray:
        """The weight or the bias that makes the tap, [output, ...]."""
        kind, family = kind_of(self.tap), family_named(self.arch.family)
        if self.stage:
            index = layer_of(self.tap) or 0
            read = parameter_of(family, self.arch, self.weights.read, kind, index, name)
        else:
            tied = kind == "logits" and self.arch.tied_head
            read = self.weights.read(f"{family.model['embed' if tied else kind]}.{name}")
        return np.asarray(read, np.float64)


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
        attended = cls.given(values)
        sizes = np.abs(latents[:earlier]) @ np.abs(matrix).T  # [slot, rank] -> [slot, size]
        attended.sizes[:earlier], attended.wrong[:earlier] = sizes, rounding * sizes
        return attended

    def beside(self, other: Attended) -> Attended:
        """The other's dimensions behind these."""
        return Attended(*(np.concatenate(both, axis=1) for both in zip(self, other, strict=True)))

    def of(self, slots: np.ndarray) -> Attended:
        """Some slots alone."""
        return Attended(*(array[slots] for array in self))
