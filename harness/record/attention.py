"""Taps inside attention, through the interface that transformers has for it. Its code is called, not copied.

transformers lets a model use an attention function by name. Ours, `goldens_eager`, calls the eager attention
of the model's own module, and taps what goes in (`q_rope`, `k_rope`; `cache_k` and `cache_v`, which without a
cache are the same as `k_rope` and `v`; in latent attention `k_pe_rope` and `cache_k_pe`), the probabilities on
their way (`probs`), and what comes out (`context`).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from harness.families.options import Latent
from harness.record.latent import tapped_keys

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
    found = _tap.get()
    if found is None:
        context, probs = eager(module, query, key, value, attention_mask, **options)
        return context, probs
    tap, mla = found
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


class _TapProbabilities(TorchFunctionMode):
    """Taps `probs` as the argument of dropout, which is where the finished probabilities are.

    Dropout does nothing outside training, but it stands between the softmax, cast back to the model's dtype, and
    the product with the values. A model without it would never fire this tap, and the recording stops.
    """

    def __init__(self, tap: Tap) -> None:
        super().__init__()
        self._to = tap

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.nn.functional.dropout:
            replacement = self._to("probs", args[0])
            if replacement is not None:
                args = (replacement, *args[1:])
        return func(*args, **(kwargs or {}))


# Without a mask function under the same name, transformers would silently hand over no causal mask at all.
AttentionInterface.register(NAME, tapped_eager_attention)
AttentionMaskInterface.register(NAME, eager_mask)
