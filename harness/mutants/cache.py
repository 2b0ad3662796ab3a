"""Bugs of the KV cache and of decoding: only a case in several calls can show them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Int

from harness.mutants.free import through
from harness.mutants.introduced import ROTATED, kinds
from harness.mutants.masks import Mask, Slots, Window
from harness.mutants.mutant import Around, CallChange, Mutant, NumericsChange, OperationChange, github
from harness.mutants.needs import CHUNKED, UNCOUNTED, WIDE, steps
from harness.run.operations import KeyValues, allowed, write

CACHE = kinds("cache_k", "cache_v", "cache_latent", "cache_k_pe")
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


def new_tokens(buffer: KeyValues, new: KeyValues, start: Start) -> int:
    """How many come, where they are written."""
    count: int = new.shape[1]
    return count


_late = only_in_steps(lambda buffer, new, start: write(buffer, new, start + 1), write, new_tokens)
_over_the_last = only_in_steps(lambda buffer, new, start: write(buffer, new, start - 1), write, new_tokens)


def _not_in_steps(rotate: Callable[..., Array]) -> Callable[..., Array]:
    return only_in_steps(lambda x, *_: x, rotate)


def _in_blocks(buffer: KeyValues, new: KeyValues, start: Start) -> KeyValues:
    """Blocks of 8 slots: near the end a block does not fit, and JAX moves it back over what is there."""
    widths = ((0, 0), (0, -new.shape[1] % 8), *((0, 0),) * (new.ndim - 2))
    block = jnp.pad(new, widths)[:, : buffer.shape[1]]
    return write(buffer, block, start)


def _narrow(buffer: KeyValues, new: KeyValues, start: Start) -> KeyValues:
    return write(buffer, through(new), start)


def _all_filled(mask: Mask, slots: Slots, window: Window) -> Array:
    return jnp.broadcast_to(mask[:, None, None, :], (mask.shape[0], 1, len(slots), mask.shape[1]))


def _every_slot(mask: Mask, slots: Slots, window: Window) -> Array:
    """A decoded token has no causal mask, since no token comes after it; but there are slots after its own."""
    causal = allowed(mask, slots, window)
    later = jnp.arange(mask.shape[1], dtype=slots.dtype)[None] > slots[:, None]
    return causal | later[None, None] if len(slots) == 1 else causal


def _over_another(buffer: KeyValues, new: KeyValues, start: Start) -> KeyValues:
    """The buffer is not empty at first: this request backwards, again and again, stands for an earlier one."""
    slots = jnp.arange(buffer.shape[1], dtype=jnp.int32) % new.shape[1]
    return write(jnp.where(start == 0, jnp.flip(new, axis=1)[:, slots], buffer), new, start)


def _after_prefill(wrong: Callable[[Array, int, int], Array]) -> CallChange:
    """Positions that are wrong from the second call on."""
    return CallChange(
        lambda positions, filled, prefill: wrong(positions, filled, prefill) if filled else positions
    )


def _counted(positions: Array, filled: int, prefill: int) -> Array:
    index = jnp.arange(filled, filled + positions.shape[1], dtype=positions.dtype)
    return jnp.broadcast_to(index, positions.shape)


position = partial(Mutant, right="position = tokens before it", introduced=ROTATED, needs=(steps(1),), cached=True)
written = partial(
    Mutant,
    right="the keys and values of the new tokens go to the slots from `filled` on",
    introduced=CACHE,
    needs=(steps(1),),
    cached=True,
)
causal = partial(
    Mutant, right="slot <= the query's own", introduced=kinds("probs"), needs=(steps(2),), cached=True
)
MUTANTS = (
    position(
        "decode_position_stuck",
        wrong="every decoded token at the position after the prefill",
        change=_after_prefill(lambda positions, filled, prefill: jnp.full_like(positions, prefill)),
        needs=(steps(2),),
        seen=github("jundot/omlx/pull/2363"),
    ),
    position(
        "decode_position_ahead",
        wrong="position + 1 after the prefill",
        change=_after_prefill(lambda positions, *_: positions + jnp.ones_like(positions)),
        seen=github("fla-org/flash-linear-attention/issues/766", "huggingface/transformers/pull/37414"),
    ),
    position(
        "decode_position_zero",
        wrong="position 0 after the prefill",
        change=_after_prefill(lambda positions, *_: jnp.zeros_like(positions)),
        seen=github("Blaizzy/mlx-vlm/issues/1983", "keras-team/keras-hub/pull/1544"),
    ),
    position(
        "decode_positions_counted",
        wrong="position = slot in the cache, padding included",
        change=CallChange(_counted),
        needs=(UNCOUNTED, steps(1)),
        seen=github("TransformerLensOrg/TransformerLens/issues/1609", "unslothai/unsloth/pull/3795"),
    ),
    position(
        "decode_positions_shared",
        wrong="after a right prefill, all rows at the position of the longest",
        change=_after_prefill(_counted),
        needs=(UNCOUNTED, steps(1)),
        seen=github("scouzi1966/maclocal-api/issues/92"),
    ),
    position(
        "decode_rope_skipped",
        wrong="q, k of a decoded token",
        right="R q, R k in prefill and decode alike",
        change=OperationChange(dict.fromkeys(("rotate_q", "rotate_k"), Around(_not_in_steps))),
        seen=github("paiml/aprender/pull/2085", "tenstorrent/tt-mlir/pull/9042"),
    ),
    written(
        "cache_not_written",
        wrong="keys and values of decoded tokens are never stored",
        change=OperationChange(both(only_in_steps(lambda buffer, *_: buffer, write, new_tokens))),
        needs=(steps(2),),
    ),
    written(
        "cache_slot_late",
        wrong="a decoded token's keys and values go one slot further on",
        change=OperationChange(both(_late)),
        seen=github("RobertCsordas/moeut/pull/6"),
    ),
    written(
        "cache_slot_overwritten",
        wrong="a decoded token's keys and values go over the last token's",
        change=OperationChange(both(_over_the_last)),
        seen=github("EricLBuehler/mistral.rs/pull/300"),
    ),
    written(
        "cache_keys_overwritten",
        wrong="a decoded token's key goes over the last token's, its value does not",
        introduced=kinds("cache_k"),
        change=OperationChange({"write_k": _over_the_last}),
        seen=github("EricLBuehler/mistral.rs/pull/300"),
    ),
    written(
        "cache_clamped",
        wrong="written in blocks of 8, which JAX moves back where they do not fit",
        change=OperationChange(both(_in_blocks)),
        needs=(steps(2),),
        seen=github("vllm-project/tpu-inference/pull/2366", "jax-ml/jax/issues/40849", "openxla/xla/issues/49120"),
    ),
    causal(
        "cache_unwritten_seen",
        wrong="a decoded token sees every slot, those without a token as well",
        change=OperationChange({"allowed": _every_slot}),
        seen=github("huggingface/transformers/pull/28937"),
    ),
    causal(
        "cache_stale",
        wrong="a decoded token sees every slot, and those without a token hold an earlier "
        "request's keys and values",
        change=OperationChange({**both(_over_another), "allowed": _every_slot}),
        seen=github("sgl-project/sglang-jax/issues/1503"),
    ),
    written(
        "cache_in_bfloat16",
        wrong="bfloat16(k), bfloat16(v) in the cache of a wider model",
        right="k, v in the dtype of the activations",
        change=NumericsChange(both(_narrow)),
        needs=(steps(1), WIDE),
        seen=github("xjdr-alt/entropix/pull/72", "ml-explore/mlx-lm/pull/1491"),
    ),
    written(
        "cache_keys_in_bfloat16",
        wrong="bfloat16(k) in the cache of a wider model",
        right="k in the dtype of the activations",
        introduced=kinds("cache_k"),
        change=NumericsChange({"write_k": _narrow}),
        needs=(steps(1), WIDE),
        seen=github("google/tunix/issues/1321"),
    ),
    causal(
        "chunk_aligned_left",
        wrong="a later chunk masked as if it were the first: key <= index in the chunk",
        change=OperationChange({"allowed": lambda mask, slots, window: allowed(mask, slots - slots[0], window)}),
        needs=(CHUNKED,),
        seen=github("huggingface/transformers/pull/28937"),
    ),
    causal(
        "chunk_not_causal",
        wrong="every token of a chunk sees the whole chunk",
        change=OperationChange({"allowed": _all_filled}),
        needs=(steps(1),),
        seen=github("osaurus-ai/vmlx-swift/pull/185"),
    ),
)
