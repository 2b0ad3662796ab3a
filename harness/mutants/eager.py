"""A decoder whose operations run one by one: where many decoders each run little, compiling takes longest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import jax

from harness.run.port import Call, Port
from harness.run.tapping import TapFunction


class Sequential(Port, Protocol):
    """A port with a cache that takes many inputs at once, as the built-in decoder does."""

    def init_cache(self, batch: int, length: int, dtype: Any) -> Any: ...

    def forward_sequences(self, sequences: Sequence[Sequence[Call]]) -> list[list[tuple[jax.Array, Any]]]: ...


class Eager:
    """A port whose taps are plain functions, so that its operations run one by one and nothing is compiled."""

    def __init__(self, port: Sequential) -> None:
        self._port = port

    def init_cache(self, batch: int, length: int, dtype: Any) -> Any:
        return self._port.init_cache(batch, length, dtype)

    def forward(
        self, input_ids: jax.Array, positions: jax.Array, mask: jax.Array, cache: Any, tap: TapFunction
    ) -> tuple[jax.Array, Any]:
        return self._port.forward(input_ids, positions, mask, cache, _plain(tap))

    def forward_sequences(self, sequences: Sequence[Sequence[Call]]) -> list[list[tuple[jax.Array, Any]]]:
        plain = [[replace(call, tap=_plain(call.tap)) for call in calls] for calls in sequences]
        return self._port.forward_sequences(plain)


def _plain(tap: TapFunction) -> TapFunction:
    return lambda name, value: tap(name, value)
