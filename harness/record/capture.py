"""Taps on transformers' own modules: forward hooks that copy, for one pass, and are gone after it.

In replay a hook also replaces the value by the golden before it flows on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import RecordError
from harness.record.attention import tapping
from harness.taps import name_of

Hook = Callable[..., Any]


class Collector:
    """One pass through one stage: takes every tap once, keeps those that are wanted.

    Args:
        stage: its name, for messages: `layers.3`, or `` outside the layers.
        wanted: kinds of taps to keep.
        replacements: kind -> what flows on instead, in replay.
    """

    def __init__(
        self, stage: str, wanted: Iterable[str], replacements: Mapping[str, Tensor] | None = None
    ) -> None:
        self.values: dict[str, Tensor] = {}
        self._stage = stage
        self._wanted = frozenset(wanted)
        self._replacements = replacements or {}
        self._fired: set[str] = set()

    def __call__(self, kind: str, value: Tensor) -> Tensor | None:
        """Take a tap's value; returns what is to replace it, or None.

        Raises:
            RecordError: this tap has fired before in this pass.
        """
        if kind in self._fired:
            raise RecordError(
                "a tap fired twice in one pass",
                where=self._name(kind),
                expected="once",
                found="twice",
                hint=_UNKNOWN_CODE,
            )
        self._fired.add(kind)
        if kind in self._wanted:
            # A copy: an operation downstream may write in place.
            self.values[kind] = value.detach().clone(memory_format=torch.contiguous_format)
        return self._replacements.get(kind)

    def finish(self, expected: Iterable[str]) -> None:
        """Refuse a pass in which a tap stayed silent.

        Raises:
            RecordError: naming the first of them.
        """
        for kind in expected:
            if kind not in self._fired:
                raise RecordError(
                    "a tap never fired",
                    where=self._name(kind),
                    expected="once",
                    found="never",
                    hint=_UNKNOWN_CODE,
                )

    def _name(self, kind: str) -> str:
        return name_of(self._stage, kind)


_UNKNOWN_CODE = (
    "transformers' model code is not the code that these hooks were written for: install the pinned version, "
    "pip install -e '.[record]'"
)


def output(tap: Collector, kind: str) -> Hook:
    """A forward hook: the module's output is the tap."""

    def hook(module: nn.Module, args: Any, value: Tensor) -> Tensor | None:
        return tap(kind, value)

    return hook


def heads(tap: Collector, kind: str, head_dim: int) -> Hook:
    """A forward hook on a projection: its output [B, S, heads * head_dim] is the tap [B, S, heads, head_dim]."""

    def hook(module: nn.Module, args: Any, value: Tensor) -> Tensor | None:
        replacement = tap(kind, value.view(*value.shape[:-1], -1, head_dim))
        return None if replacement is None else replacement.reshape(value.shape)

    return hook


def argument(tap: Collector, kind: str) -> Hook:
    """A forward pre-hook: the module's only argument is the tap."""

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor] | None:
        replacement = tap(kind, args[0])
        return None if replacement is None else (replacement,)

    return hook


def shared_argument(tap: Collector, kind: str) -> Hook:
    """A forward pre-hook for an argument that the caller goes on using: it is replaced in place.

    The residual path holds the same tensor that the norm is given; handing the norm another one would leave the
    old value in the sum.
    """

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        replacement = tap(kind, args[0])
        if replacement is not None:
            args[0].copy_(replacement)

    return hook


@contextlib.contextmanager
def tapped_layer(layer: nn.Module, head_dim: int, tap: Collector) -> Iterator[None]:
    """All taps of a decoder layer, for the time of the block."""
    attention, mlp = layer.self_attn, layer.mlp
    with contextlib.ExitStack() as stack:
        for handle in (
            layer.input_layernorm.register_forward_hook(output(tap, "attn_norm")),
            attention.q_proj.register_forward_hook(heads(tap, "q", head_dim)),
            attention.k_proj.register_forward_hook(heads(tap, "k", head_dim)),
            attention.v_proj.register_forward_hook(heads(tap, "v", head_dim)),
            attention.o_proj.register_forward_hook(output(tap, "attn_out")),
            layer.post_attention_layernorm.register_forward_pre_hook(shared_argument(tap, "resid_mid")),
            layer.post_attention_layernorm.register_forward_hook(output(tap, "mlp_norm")),
            mlp.gate_proj.register_forward_hook(output(tap, "gate")),
            mlp.up_proj.register_forward_hook(output(tap, "up")),
            mlp.down_proj.register_forward_pre_hook(argument(tap, "act")),
            mlp.register_forward_hook(output(tap, "mlp_out")),
            layer.register_forward_hook(output(tap, "resid_post")),
        ):
            stack.callback(handle.remove)
        stack.enter_context(tapping(tap))
        yield


@contextlib.contextmanager
def tapped_module(module: nn.Module, kind: str, tap: Collector) -> Iterator[None]:
    """One module whose output is a tap: the embedding, the final norm, the head."""
    handle = module.register_forward_hook(output(tap, kind))
    try:
        yield
    finally:
        handle.remove()
