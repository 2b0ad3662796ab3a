"""Values that were made lately, bounded by the memory that they take."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np


class Recent:
    """A function of names whose latest arrays are kept, up to a number of bytes; a larger array is not kept.

    Args:
        make: called for what is not kept; its arrays are shared, and not to be changed.
        most: bytes.
    """

    def __init__(self, make: Callable[..., np.ndarray], most: int) -> None:
        self._make, self._most = make, most
        self._kept: OrderedDict[tuple[str, ...], np.ndarray] = OrderedDict()
        self._bytes = 0

    def __call__(self, *names: str) -> np.ndarray:
        """The array of these names."""
        if names in self._kept:
            self._kept.move_to_end(names)
            return self._kept[names]
        value = self._make(*names)
        if value.nbytes <= self._most:
            self._kept[names] = value
            self._bytes += value.nbytes
        while self._bytes > self._most:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes
        return value

    def forget(self) -> None:
        """Release everything."""
        self._kept.clear()
        self._bytes = 0
