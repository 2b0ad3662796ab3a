"""Taps of latent attention, where transformers has its parts: around the module that makes keys and values of the
latents, and in what attention is given."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

Tap = Callable[[str, Tensor], Tensor | None]


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

    handles = (
        norm.register_forward_hook(count),
        expansion.register_forward_pre_hook(enter),
        expansion.register_forward_hook(leave),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
    found = turned if replaced is None else torch.cat([earlier, replaced], dim=1)
    held = tap("cache_k_pe", found)
    if replaced is None and held is None:
        return key
    found = found if held is None else held
    return torch.cat([rest, found[:, None].expand(-1, key.shape[1], -1, -1)], dim=-1)
