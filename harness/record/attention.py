"""Taps inside attention, through the interface that transformers has for it. Its code is called, not copied.

transformers lets a model use an attention function by name. Ours, `goldens_eager`, calls the eager attention
of the model's own module, and taps what goes in (`q_rope`, `k_rope`; `cache_k` and `cache_v`, which without a
cache are the same as `k_rope` and `v`; in latent attention `k_pe_rope` and `cache_k_pe`), the probabilities on
their way (`probs`), and what comes out (`context`). In latent attention so is the module that makes keys and
values of the latents.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from harness.families.options import Latent
from harness.record.promote import EveryCall

NAME = "goldens_eager"
Tap = Callable[[str, Tensor], Tensor | None]
_tap: ContextVar[tuple[Tap, Latent | None] | None] = ContextVar("tap", default=None)


@contextlib.contextmanager
def tapping(tap: Tap, mla: Latent | None = None) -> Iterator[None]:
    """Attention reports to `tap` for the time of the block: (kind, value) -> its replacement, or None.

    Args:
        mla: where it is latent attention.
    """
    token = _tap.set((tap, mla))
    try:
        yield
    finally:
        _tap.reset(token)


def tapped_eager_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor]:
    """The model's own eager attention, tapped.

    Args:
        query: [batch, heads, position, head_dim]; `key` and `value` have the KV heads, and all that is cached
            before the positions of this call.

    Returns:
        The context [batch, position, heads, head_dim], and the probabilities.
    """
    eager = sys.modules[type(module).__module__].eager_attention_forward
    current = _tap.get()
    if current is None:
        context, probs = eager(module, query, key, value, attention_mask, **options)
        return context, probs
    tap, mla = current
    query = _swapped(tap, "q_rope", query)
    if mla is not None:
        query, key = query.contiguous(), tapped_keys(tap, key, query.shape[2], mla.rope)
    else:
        key, value = _tapped_cache(tap, key, value, query.shape[2])
    with _TapProbabilities(tap):
        context, probs = eager(module, query, key, value, attention_mask, **options)
    replacement = tap("context", context)
    return (context if replacement is None else replacement), probs


def _tapped_cache(tap: Tap, key: Tensor, value: Tensor, own: int) -> tuple[Tensor, Tensor]:
    """Keys and values of all slots, of which the last ones are this call's own."""
    earlier = key.shape[2] - own
    new = _swapped(tap, "k_rope", key[:, :, earlier:])
    key = _swapped(tap, "cache_k", torch.cat([key[:, :, :earlier], new], dim=2) if earlier else new)
    return key, _swapped(tap, "cache_v", value)


def _swapped(tap: Tap, kind: str, value: Tensor) -> Tensor:
    """Tap [batch, heads, position, head_dim] as [batch, position, heads, head_dim]."""
    replacement = tap(kind, value.transpose(1, 2))
    return value if replacement is None else replacement.transpose(1, 2)


class _TapProbabilities(EveryCall):
    """Taps `probs` as the argument of dropout, which is where the finished probabilities are.

    Dropout does nothing outside training, but it stands between the softmax, cast back to the model's dtype, and
    the product with the values. A model without it would never fire this tap, and the recording stops.
    """

    def __init__(self, tap: Tap) -> None:
        super().__init__()
        self._to = tap

    def called(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if func is torch.nn.functional.dropout:
            replacement = self._to("probs", args[0])
            if replacement is not None:
                args = (replacement, *args[1:])
        return func(*args, **kwargs)


@contextlib.contextmanager
def tapped_expansion(tap: Tap, norm: nn.Module, expansion: nn.Module, heads: int) -> Iterator[None]:
    """`cache_latent`, which goes into `expansion`, and `kv`, what of its output belongs to this call's tokens.

    Args:
        norm: of the latents of this call's tokens alone, where there is a cache.
        expansion: [batch, 1, slot, kv_rank] -> [batch, 1, slot, heads * kv_dim].
    """
    own = 0

    def count(module: nn.Module, args: Any, value: Tensor) -> None:
        nonlocal own
        own = value.shape[1]

    def enter(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor] | None:
        replacement = tap("cache_latent", args[0][:, 0])
        return None if replacement is None else (replacement[:, None],)

    def leave(module: nn.Module, args: Any, value: Tensor) -> Tensor | None:
        earlier = value[:, :, : value.shape[2] - own]
        replacement = tap("kv", value[:, 0, earlier.shape[2] :].unflatten(-1, (heads, -1)))
        return None if replacement is None else torch.cat([earlier, replacement.flatten(2)[:, None]], dim=2)

    before, after = expansion.register_forward_pre_hook(enter), expansion.register_forward_hook(leave)
    with norm.register_forward_hook(count), before, after:
        yield


def tapped_keys(tap: Tap, key: Tensor, own: int, shared: int) -> Tensor:
    """Tap the turned part of keys, which is the same in all heads: `k_pe_rope`, and in the cache `cache_k_pe`.

    Args:
        key: [batch, head, slot, head_dim].
        own: how many of the slots are this call's.
        shared: how many dimensions, the last ones, are that part.

    Returns:
        The keys that go on.
    """
    rest, turned = key[..., :-shared], key[:, 0, :, -shared:]  # [B, H, T, nope], [B, T, rope]
    earlier = turned[:, : turned.shape[1] - own]
    replaced = tap("k_pe_rope", turned[:, earlier.shape[1] :])
    k_pe = turned if replaced is None else torch.cat([earlier, replaced], dim=1)
    held = tap("cache_k_pe", k_pe)
    if replaced is None and held is None:
        return key
    k_pe = k_pe if held is None else held
    return torch.cat([rest, k_pe[:, None].expand(-1, key.shape[1], -1, -1)], dim=-1)


# Without a mask function under the same name, transformers would silently hand over no causal mask at all.
AttentionInterface.register(NAME, tapped_eager_attention)
AttentionMaskInterface.register(NAME, eager_mask)
