"""Bugs planted in the built-in decoder that only a cache, a padded batch or far positions can show.

`kinds` is where replay must find a bug, and nowhere else; `cases` are those of the embedded golden that see it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from harness.run.cache import Cache
from harness.run.decoder import Decoder
from harness.run.operations import OPERATIONS, Operations, allowed, inverse_frequencies, rope_angles, write


@dataclass(frozen=True)
class CallBug:
    """A planted bug: operations that are replaced, what a call is given, or the cache that a case starts with.

    Attributes:
        kinds: the kinds of taps where replay must find it.
        cases: where it shows.
        since: the first call in which it shows.
        positions: (positions, mask, slots filled before) -> positions.
        mask: (mask) -> mask.
    """

    name: str
    kinds: frozenset[str]
    operations: Operations = OPERATIONS
    cases: tuple[str, ...] = ("decode",)
    since: int = 0
    change: object = None
    stale: bool = False


def _kinds(*names):
    return frozenset(names)


def _ops(**changed) -> Operations:
    return replace(OPERATIONS, **changed)


def _only_in_steps(wrong, right):
    """An operation that is wrong where it is given one token, and right in a prefill."""
    return lambda x, *args: (wrong if x.shape[1] == 1 else right)(x, *args)


def _at_prefill_length(positions, filled, prefill):
    return positions if filled == 0 else jnp.full_like(positions, prefill)


def _one_ahead(positions, filled, prefill):
    return positions if filled == 0 else positions + jnp.int32(1)


def _at_zero(positions, filled, prefill):
    return positions if filled == 0 else jnp.zeros_like(positions)


def _count_padding(positions, filled, prefill):
    return jnp.broadcast_to(jnp.arange(positions.shape[1], dtype=jnp.int32) + jnp.int32(filled), positions.shape)


def _bfloat16_positions(positions, frequencies, dtype):
    rounded = positions.astype(jnp.bfloat16).astype(jnp.int32)
    return rope_angles(rounded, frequencies, dtype)


def _bfloat16_frequencies(theta, head_dim):
    return inverse_frequencies(theta, head_dim).astype(jnp.bfloat16).astype("float64")


def _ntk_frequencies(theta, head_dim):
    """theta off by a little, as a rescaled RoPE would have it: hardly there in a short prompt."""
    return inverse_frequencies(theta * 1.0001, head_dim)


def _not_written(buffer, new, start):
    return write(buffer, new, start) if new.shape[1] > 1 else buffer


def _one_slot_late(buffer, new, start):
    """Decode steps write one slot further on; at the end of the cache, JAX clamps that to the last one."""
    return write(buffer, new, start if new.shape[1] > 1 else start + 1)


def _over_the_last(buffer, new, start):
    return write(buffer, new, start if new.shape[1] > 1 else start - 1)


def _in_blocks(buffer, new, start):
    """Written in blocks of 8: near the end of the cache the block does not fit, and JAX clamps where it begins."""
    block = jnp.pad(new, ((0, 0), (0, -new.shape[1] % 8), (0, 0), (0, 0)))[:, : buffer.shape[1]]
    return write(buffer, block, start)


def _through_bfloat16(buffer, new, start):
    return write(buffer, new.astype(jnp.bfloat16).astype(new.dtype), start)


def _aligned_at_the_left(mask, slots):
    """Causal as if the chunk were at the beginning: its queries see too little of the past."""
    return allowed(mask, slots - slots[0])


def _all_that_is_filled(mask, slots):
    return jnp.broadcast_to(mask[:, None, None, :], (mask.shape[0], 1, len(slots), mask.shape[1]))


def _blind_to_padding(mask, slots):
    return allowed(jnp.ones_like(mask), slots)


def _inverted(mask, slots):
    return allowed(~mask, slots)


def _added_as_bool(scores, seen):
    """True is added as 1: what must not be seen only loses a little."""
    return jax.nn.softmax(scores + seen.astype(scores.dtype), axis=-1)


def _infinite(scores, seen):
    y = jnp.where(seen, scores, -jnp.inf)
    return jax.nn.softmax(y, axis=-1)


def _nan_everywhere(probs, v):
    """As 0 * NaN: a value of padding reaches every row."""
    poisoned = jnp.where(jnp.isnan(probs).any(axis=(1, 2, 3), keepdims=True), jnp.nan, probs)
    return OPERATIONS.context(poisoned, v)


SHOWN_IN_DECODE = ("decode", "batch-decode")
CALL_BUGS = (
    CallBug("position_stuck", _kinds("q_rope", "k_rope"), since=2, change=_at_prefill_length),
    CallBug("position_off_by_one", _kinds("q_rope", "k_rope"), since=1, change=_one_ahead),
    CallBug("position_zero", _kinds("q_rope", "k_rope"), since=1, change=_at_zero),
    CallBug(
        "cache_not_written",
        _kinds("cache_k", "cache_v"),
        _ops(write_k=_not_written, write_v=_not_written),
        since=1,
    ),
    CallBug(
        "cache_one_slot_late",
        _kinds("cache_k", "cache_v"),
        _ops(write_k=_one_slot_late, write_v=_one_slot_late),
        since=1,
    ),
    CallBug("cache_slot_overwritten", _kinds("cache_k"), _ops(write_k=_over_the_last), since=1),
    CallBug("cache_clamped", _kinds("cache_k", "cache_v"), _ops(write_k=_in_blocks, write_v=_in_blocks), since=2),
    CallBug(
        "cache_bfloat16", _kinds("cache_k", "cache_v"), _ops(write_k=_through_bfloat16, write_v=_through_bfloat16)
    ),
    CallBug(
        "cache_stale",
        _kinds("probs"),
        _ops(allowed=lambda mask, slots: _all_that_is_filled(jnp.ones_like(mask), slots)),
        stale=True,
    ),
    CallBug(
        "qk_path_skipped",
        _kinds("q_rope", "k_rope"),
        _ops(
            rotate_q=_only_in_steps(lambda x, a: x, OPERATIONS.rotate_q),
            rotate_k=_only_in_steps(lambda x, a: x, OPERATIONS.rotate_k),
        ),
        since=1,
    ),
    CallBug(
        "chunk_aligned_left", _kinds("probs"), _ops(allowed=_aligned_at_the_left), cases=("chunked",), since=1
    ),
    CallBug("chunk_not_causal", _kinds("probs"), _ops(allowed=_all_that_is_filled), cases=("chunked",)),
    CallBug(
        "padding_ignored", _kinds("probs"), _ops(allowed=_blind_to_padding), cases=("batch-left", "batch-decode")
    ),
    CallBug("padding_inverted", _kinds("probs"), _ops(allowed=_inverted), cases=("batch-left", "batch-decode")),
    CallBug(
        "mask_added_as_bool",
        _kinds("probs"),
        _ops(probabilities=_added_as_bool),
        cases=("batch-left", "batch-decode"),
    ),
    CallBug(
        "positions_count_padding",
        _kinds("q_rope", "k_rope"),
        change=_count_padding,
        cases=("batch-left", "batch-decode"),
    ),
    CallBug(
        "padding_is_nan",
        _kinds("context"),
        _ops(probabilities=_infinite, context=_nan_everywhere),
        cases=("batch-left",),
    ),
    CallBug(
        "positions_bfloat16",
        _kinds("q_rope", "k_rope"),
        _ops(rope_angles=_bfloat16_positions),
        cases=("longest", "offset"),
    ),
    CallBug(
        "frequencies_bfloat16",
        _kinds("q_rope", "k_rope"),
        _ops(inverse_frequencies=_bfloat16_frequencies),
        cases=("longest", "offset"),
    ),
    CallBug(
        "theta_off_by_little",
        _kinds("q_rope", "k_rope"),
        _ops(inverse_frequencies=_ntk_frequencies),
        cases=("longest", "offset"),
    ),
)


class BuggyDecoder:
    """The built-in decoder, called through a layer of code that gets positions or the cache wrong."""

    def __init__(self, decoder: Decoder, bug: CallBug) -> None:
        self._decoder, self._bug, self._prefill = decoder, bug, 0

    def init_cache(self, batch, length, dtype):
        cache = self._decoder.init_cache(batch, length, dtype)
        if not self._bug.stale:
            return cache
        full = tuple(jnp.ones_like(buffer) for buffer in cache.k)  # of an earlier request
        return Cache(full, full, cache.filled)

    def forward(self, input_ids, positions, mask, cache, tap):
        filled = 0 if cache is None else int(cache.filled)
        self._prefill = self._prefill if filled else input_ids.shape[1]
        if self._bug.change is not None:
            positions = self._bug.change(positions, filled, self._prefill)
        return self._decoder.forward(input_ids, positions, mask, cache, tap)


def load_call_bug(bug: CallBug):
    """A loader of the built-in decoder with the bug in it, or around it."""

    def load(checkpoint, config, dtype):
        decoder = Decoder.load(checkpoint, config, dtype, None, operations=bug.operations)
        return BuggyDecoder(decoder, bug) if bug.change or bug.stale else decoder

    return load
