"""The values used last, bounded by the memory that they take (an LRU cache)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np


class LRUCache:
    """The latest values by key, up to a number of bytes; what takes more than that is not kept.

    Args:
        most: bytes.
    """

    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.RLock()

    def get(self, key: Hashable, make: Callable[[], tuple[Any, int]]) -> Any:
        """The value of a key; `make` gives it where it is not kept, with its bytes.

        Whoever asks while another thread makes one waits: what that makes may be what is asked for.
        """
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
            value, size = make()
            if size <= self._most:
                self._kept[key] = value, size
                self._bytes += size
            while self._bytes > self._most:
                self._bytes -= self._kept.popitem(last=False)[1][1]
            return value

    def forget(self) -> None:
        """Release everything."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0


class CachedArrays:
    """A function of names whose latest arrays are kept.

    Args:
        make: called for what is not kept; its arrays are shared, and not to be changed.
        most: bytes that they may take.
    """

    def __init__(self, make: Callable[..., np.ndarray], most: int) -> None:
        self._make, self._cache = make, LRUCache(most)

    def __call__(self, *names: str) -> np.ndarray:
        """The array of these names."""

        def made() -> tuple[np.ndarray, int]:
            value = self._make(*names)
            return value, value.nbytes

        value: np.ndarray = self._cache.get(names, made)
        return value

    def forget(self) -> None:
        """Release everything."""
        self._cache.forget()
