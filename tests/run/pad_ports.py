"""Ports that count positions from the beginning of a row, pads included."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp

from harness.run.decoder import Decoder


class CountsFromPads(Decoder):
    """It never looks at `positions` of a row that is padded on the left: it counts slots."""

    def _counted(self, call):
        pads = jnp.argmax(call.mask, axis=1)[:, None]
        # The tokens of a call are the last ones that the mask shows.
        start = pads + call.mask.sum(1, keepdims=True) - call.input_ids.shape[1]
        counted = start + jnp.arange(call.input_ids.shape[1])[None, :]
        return jnp.where(pads > 0, counted.astype(jnp.int32), call.positions)

    def forward_sequences(self, sequences):
        return super().forward_sequences(
            [[replace(call, positions=self._counted(call)) for call in calls] for calls in sequences]
        )


class DeclaresThatItCountsFromPads(CountsFromPads):
    positions_from_pads = ("left",)


class DeclaresWhatItDoesNot(Decoder):
    positions_from_pads = ("left",)


class DeclaresTheRight(Decoder):
    positions_from_pads = ("right",)
