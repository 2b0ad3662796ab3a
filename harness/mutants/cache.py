"""Bugs of the KV cache and of decoding: only a case in several calls can show them."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Int

from harness.mutants.masks import Mask, Slots, Window
from harness.mutants.mutant import (
    ROTATED,
    Around,
    CallChange,
    Change,
    Mutant,
    NumericsChange,
    OperationChange,
    kinds,
)
from harness.mutants.needs import CHUNKED, UNCOUNTED, WIDE, Need, steps
from harness.run.operations import KeyValues, allowed, write

CACHE = kinds("cache_k", "cache_v", "cache_latent", "cache_k_pe")
WRITTEN = "the keys and values of the new tokens go to the slots from `filled` on"
POSITION = "position = tokens before it"
CAUSAL = "slot <= the query's own"
Start = Int[Array, ""]


def both(operation: Callable[..., Array]) -> dict[str, Callable[..., Array]]:
    """The same writing of keys and values, or of what latent attention has of them."""
    return dict.fromkeys(("write_k", "write_v", "write_latent", "write_k_pe"), operation)


def only_in_steps(
    wrong: Callable[..., Array],
    right: Callable[..., Array],
    tokens: Callable[..., int] = lambda x, *_: x.shape[1],
) -> Callable[..., Array]:
    """Wrong where one token comes, right in a prefill: two code paths.

    Args:
        tokens: how many come, from the operation's arguments.
    """
    return lambda *args: (wrong if tokens(*args) == 1 else right)(*args)


def _not_written(buffer: KeyValues, new: KeyValues, start: Start) -> KeyValues:
    return buffer if new.shape[1] == 1 else write(buffer, new, start)


def _late(buffer: KeyValues, new: KeyValues, start: Start) -> KeyValues:
    return write(buffer, new, start + 1 if new.shape[1] == 1 else start)


def _over_the_last(buffer: KeyValues, new: KeyValues, start: Start) -> KeyValues:
    return write(buffer, new, start - 1 if new.shape[1] == 1 else start)


def _in_blocks(buffer: KeyValues, new: KeyValues, start: Start) -> KeyValues:
    """Blocks of 8 slots: near the end a block does not fit, and JAX moves it back over what is there."""
    widths = ((0, 0), (0, -new.shape[1] % 8), *((0, 0),) * (new.ndim - 2))
    block = jnp.pad(new, widths)[:, : buffer.shape[1]]
    return write(buffer, block, start)


def _narrow(buffer: KeyValues, new: KeyValues, start: Start) -> KeyValues:
    return write(buffer, new.astype(jnp.bfloat16).astype(new.dtype), start)


def _from_the_left(mask: Mask, slots: Slots, window: Window) -> Array:
    return allowed(mask, slots - slots[0], window)


def _all_filled(mask: Mask, slots: Slots, window: Window) -> Array:
    return jnp.broadcast_to(mask[:, None, None, :], (mask.shape[0], 1, len(slots), mask.shape[1]))


def _every_slot(mask: Mask, slots: Slots, window: Window) -> Array:
    """A decoded token has no causal mask, since no token comes after it; but there are slots after its own."""
    right = allowed(mask, slots, window)
    later = jnp.arange(mask.shape[1], dtype=slots.dtype)[None] > slots[:, None]
    return right | later[None, None] if len(slots) == 1 else right


def _over_another(buffer: KeyValues, new: KeyValues, start: Start) -> KeyValues:
    """The buffer is not empty at first: this request backwards, again and again, stands for an earlier one."""
    slots = jnp.arange(buffer.shape[1], dtype=jnp.int32) % new.shape[1]
    return write(jnp.where(start == 0, jnp.flip(new, axis=1)[:, slots], buffer), new, start)


def _stuck(positions: Array, filled: int, prefill: int) -> Array:
    return jnp.full_like(positions, prefill) if filled else positions


def _ahead(positions: Array, filled: int, prefill: int) -> Array:
    return positions + jnp.ones_like(positions) if filled else positions


def _zero(positions: Array, filled: int, prefill: int) -> Array:
    return jnp.zeros_like(positions) if filled else positions


def _counted(positions: Array, filled: int, prefill: int) -> Array:
    index = jnp.arange(filled, filled + positions.shape[1], dtype=positions.dtype)
    return jnp.broadcast_to(index, positions.shape)


def _shared(positions: Array, filled: int, prefill: int) -> Array:
    return _counted(positions, filled, prefill) if filled else positions


def _mutant(
    name: str,
    wrong: str,
    right: str,
    introduced: frozenset[str],
    change: Change,
    *seen: str,
    needs: tuple[Need, ...],
) -> Mutant:
    return Mutant(name, wrong, right, introduced, change, needs=needs, cached=True, seen=seen)


MUTANTS = (
    _mutant(
        "decode_position_stuck",
        "every decoded token at the position after the prefill",
        POSITION,
        ROTATED,
        CallChange(_stuck),
        "https://github.com/jundot/omlx/pull/2363",
        needs=(steps(2),),
    ),
    _mutant(
        "decode_position_ahead",
        "position + 1 after the prefill",
        POSITION,
        ROTATED,
        CallChange(_ahead),
        "https://github.com/fla-org/flash-linear-attention/issues/766",
        "https://github.com/huggingface/transformers/pull/37414",
        needs=(steps(1),),
    ),
    _mutant(
        "decode_position_zero",
        "position 0 after the prefill",
        POSITION,
        ROTATED,
        CallChange(_zero),
        "https://github.com/Blaizzy/mlx-vlm/issues/1983",
        "https://github.com/keras-team/keras-hub/pull/1544",
        needs=(steps(1),),
    ),
    _mutant(
        "decode_positions_counted",
        "position = slot in the cache, padding included",
        POSITION,
        ROTATED,
        CallChange(_counted),
        "https://github.com/TransformerLensOrg/TransformerLens/issues/1609",
        "https://github.com/unslothai/unsloth/pull/3795",
        needs=(UNCOUNTED, steps(1)),
    ),
    _mutant(
        "decode_positions_shared",
        "after a right prefill, all rows at the position of the longest",
        POSITION,
        ROTATED,
        CallChange(_shared),
        "https://github.com/scouzi1966/maclocal-api/issues/92",
        needs=(UNCOUNTED, steps(1)),
    ),
    _mutant(
        "decode_rope_skipped",
        "q, k of a decoded token",
        "R q, R k in prefill and decode alike",
        ROTATED,
        OperationChange(
            {
                "rotate_q": Around(lambda rotate: only_in_steps(lambda x, *_: x, rotate)),
                "rotate_k": Around(lambda rotate: only_in_steps(lambda x, *_: x, rotate)),
            }
        ),
        "https://github.com/paiml/aprender/pull/2085",
        "https://github.com/tenstorrent/tt-mlir/pull/9042",
        needs=(steps(1),),
    ),
    _mutant(
        "cache_not_written",
        "keys and values of decoded tokens are never stored",
        WRITTEN,
        CACHE,
        OperationChange(both(_not_written)),
        needs=(steps(2),),
    ),
    _mutant(
        "cache_slot_late",
        "a decoded token's keys and values go one slot further on",
        WRITTEN,
        CACHE,
        OperationChange(both(_late)),
        "https://github.com/RobertCsordas/moeut/pull/6",
        needs=(steps(1),),
    ),
    _mutant(
        "cache_slot_overwritten",
        "a decoded token's keys and values go over the last token's",
        WRITTEN,
        CACHE,
        OperationChange(both(_over_the_last)),
        "https://github.com/EricLBuehler/mistral.rs/pull/300",
        needs=(steps(1),),
    ),
    _mutant(
        "cache_keys_overwritten",
        "a decoded token's key goes over the last token's, its value does not",
        WRITTEN,
        kinds("cache_k"),
        OperationChange({"write_k": _over_the_last}),
        "https://github.com/EricLBuehler/mistral.rs/pull/300",
        needs=(steps(1),),
    ),
    _mutant(
        "cache_clamped",
        "written in blocks of 8, which JAX moves back where they do not fit",
        WRITTEN,
        CACHE,
        OperationChange(both(_in_blocks)),
        "https://github.com/vllm-project/tpu-inference/pull/2366",
        "https://github.com/jax-ml/jax/issues/40849",
        "https://github.com/openxla/xla/issues/49120",
        needs=(steps(2),),
    ),
    _mutant(
        "cache_unwritten_seen",
        "a decoded token sees every slot, those without a token as well",
        CAUSAL,
        kinds("probs"),
        OperationChange({"allowed": _every_slot}),
        "https://github.com/huggingface/transformers/pull/28937",
        needs=(steps(2),),
    ),
    _mutant(
        "cache_stale",
        "a decoded token sees every slot, and those without a token hold an earlier request's keys and values",
        CAUSAL,
        kinds("probs"),
        OperationChange({**both(_over_another), "allowed": _every_slot}),
        "https://github.com/sgl-project/sglang-jax/issues/1503",
        needs=(steps(2),),
    ),
    _mutant(
        "cache_in_bfloat16",
        "bfloat16(k), bfloat16(v) in the cache of a wider model",
        "k, v in the dtype of the activations",
        CACHE,
        NumericsChange(both(_narrow)),
        "https://github.com/xjdr-alt/entropix/pull/72",
        "https://github.com/ml-explore/mlx-lm/pull/1491",
        needs=(steps(1), WIDE),
    ),
    _mutant(
        "cache_keys_in_bfloat16",
        "bfloat16(k) in the cache of a wider model",
        "k in the dtype of the activations",
        kinds("cache_k"),
        NumericsChange({"write_k": _narrow}),
        "https://github.com/google/tunix/issues/1321",
        needs=(steps(1), WIDE),
    ),
    _mutant(
        "chunk_aligned_left",
        "a later chunk masked as if it were the first: key <= index in the chunk",
        CAUSAL,
        kinds("probs"),
        OperationChange({"allowed": _from_the_left}),
        "https://github.com/huggingface/transformers/pull/28937",
        needs=(CHUNKED,),
    ),
    _mutant(
        "chunk_not_causal",
        "every token of a chunk sees the whole chunk",
        CAUSAL,
        kinds("probs"),
        OperationChange({"allowed": _all_filled}),
        "https://github.com/osaurus-ai/vmlx-swift/pull/185",
        needs=(steps(1),),
    ),
)
