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
from harness.families import Family
from harness.families.graph import kinds_of
from harness.families.options import Architecture
from harness.families.parameters import HEAD_NORMS, outputs
from harness.record.attention import tapped_expansion, tapping
from harness.record.experts import Choice, tapped_experts, tapped_router
from harness.taps import DIMS, ROUTING_KINDS, name_of

Hook = Callable[..., Any]
Way = Callable[[Tensor], Tensor]
PARAMETERS_ALONE = frozenset({"probs"})  # where a path says whose parameters they are: attention is tapped itself


class Collector:
    """One pass through one stage: takes every tap once, keeps those that are wanted.

    Args:
        stage: its name, for messages: `layers.3`, or `` outside the layers.
        wanted: kinds of taps to keep.
        replacements: kind -> what flows on instead, in replay.
        pinned: what its router chose in the truth, and chooses again; None: it chooses.

    Attributes:
        chosen: what its router chose.
    """

    def __init__(
        self,
        stage: str,
        wanted: Iterable[str],
        replacements: Mapping[str, Tensor] | None = None,
        pinned: Choice | None = None,
    ) -> None:
        self.pinned, self.chosen = pinned, list[Tensor]()
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
            raise self._unknown_code("a tap fired twice in one pass", kind, "twice")
        self._fired.add(kind)
        if kind in self._wanted:
            # A copy: an operation downstream may write in place.
            self.values[kind] = value.detach().clone(memory_format=torch.contiguous_format)
        replacement = self._replacements.get(kind)
        return None if replacement is None else replacement.contiguous()  # modules may view what they are given

    def finish(self, expected: Iterable[str]) -> None:
        """Refuse a pass in which a tap stayed silent.

        Raises:
            RecordError: naming the first of them.
        """
        for kind in expected:
            if kind not in self._fired:
                raise self._unknown_code("a tap never fired", kind, "never")

    def _unknown_code(self, problem: str, kind: str, found: str) -> RecordError:
        hint = "transformers' model code is not the code that these hooks were written for: install the pinned "
        hint += "version, pip install -e '.[record]'"
        return RecordError(problem, where=name_of(self._stage, kind), expected="once", found=found, hint=hint)


@contextlib.contextmanager
def tapped_layer(
    layer: nn.Module, family: Family, arch: Architecture, tap: Collector, index: int, shape: tuple[int, int]
) -> Iterator[None]:
    """All taps of a decoder layer, for the time of the block.

    Args:
        index: which layer.
        shape: [batch, position] of the tokens: modules of experts work on all of them in one row.
    """
    sparse = arch.is_sparse(index)
    kinds = frozenset(kinds_of(arch, sparse))
    paths = {kind: path for kind, path in family.of(arch).paths(sparse).items() if kind in kinds}
    with contextlib.ExitStack() as stack:
        if arch.mla is not None:
            normed, expansion = (layer.get_submodule(paths[kind]) for kind in ("kv_latent_norm", "kv"))
            stack.enter_context(tapped_expansion(tap, normed, expansion, arch.heads))
            del paths["kv"]
        if "expert_out" in kinds:
            experts = layer.get_submodule(paths["experts_out"])
            stack.enter_context(tapped_experts(experts, tap, shape))
        for path in dict.fromkeys(paths.values()):
            module, sharing = layer.get_submodule(path), tuple(kind for kind in paths if paths[kind] == path)
            if set(sharing) & ROUTING_KINDS:
                stack.enter_context(tapped_router(module, tap, shape, tap.pinned, tap.chosen))
            elif not PARAMETERS_ALONE & set(sharing):
                hook = _made(tap, sharing, family, arch, shape)
                stack.enter_context(module.register_forward_hook(hook))
        for kind, reader in (("act", "mlp_out"), ("shared_act", "shared_out")):
            if kind in kinds:
                last = layer.get_submodule(paths[reader])
                stack.enter_context(last.register_forward_pre_hook(_argument(tap, kind, shape)))
        if "resid_mid" in kinds:
            reader = next(kind for kind in ("mlp_norm", "gate", "up") if kind in paths)
            first = layer.get_submodule(paths[reader])
            stack.enter_context(first.register_forward_pre_hook(_shared_argument(tap, "resid_mid")))
        stack.enter_context(tapped_module(layer, "resid_post", tap))
        stack.enter_context(tapping(tap, arch.mla))
        yield


def tapped_module(module: nn.Module, kind: str, tap: Collector) -> contextlib.AbstractContextManager[object]:
    """One module whose output is a tap, for the time of a block."""
    handle: contextlib.AbstractContextManager[object] = module.register_forward_hook(_whole(tap, kind))
    return handle


def _made(
    tap: Collector, kinds: tuple[str, ...], family: Family, arch: Architecture, shape: tuple[int, int]
) -> Hook:
    """A forward hook on the module that makes these kinds of taps."""
    (first, *rest) = kinds
    if rest:
        return _parts(tap, kinds, family, arch)
    if "head_dim" not in DIMS[first]:
        return _whole(tap, first, lambda value: value.reshape(*shape, -1))
    if family.heads_first and first in HEAD_NORMS:  # [B, heads, S, head_dim]
        return _whole(tap, first, lambda value: value.transpose(1, 2), lambda tapped: tapped.transpose(1, 2))
    # [B, S, heads * head_dim], or [B, S, heads, head_dim]
    return _whole(tap, first, lambda value: value.view(*value.shape[:2], -1, arch.head_dim))


def _same(value: Tensor) -> Tensor:
    return value


def _whole(tap: Collector, kind: str, there: Way = _same, back: Way = _same) -> Hook:
    """The module's output is the tap: `there` gives it its form, `back` its order to what comes in its place."""

    def hook(module: nn.Module, args: Any, value: Any) -> Any:
        first = value[0] if isinstance(value, tuple) else value
        replacement = tap(kind, there(first))
        if replacement is None:
            return None
        replacement = back(replacement).reshape(first.shape)
        return (replacement, *value[1:]) if isinstance(value, tuple) else replacement

    return hook


def _parts(tap: Collector, kinds: tuple[str, ...], family: Family, arch: Architecture) -> Hook:
    """Its output [B, S, outputs] is several taps, which lie in it one after the other, or head by head."""
    sizes = [outputs(arch)[kind] for kind in kinds]

    def split(value: Tensor) -> list[Tensor]:
        if family.by_head:
            return [
                part.flatten(2) for part in value.view(*value.shape[:2], -1, len(kinds), arch.head_dim).unbind(3)
            ]
        return list(value.split(sizes, dim=-1))

    def joined(parts: list[Tensor]) -> Tensor:
        if not family.by_head:
            return torch.cat(parts, dim=-1)
        heads = [part.view(*part.shape[:2], -1, arch.head_dim) for part in parts]
        return torch.stack(heads, dim=3).flatten(2)

    def hook(module: nn.Module, args: Any, value: Tensor) -> Tensor | None:
        parts = split(value)
        changed = False
        for index, kind in enumerate(kinds):
            flat = parts[index]
            shaped = flat.reshape(*flat.shape[:2], -1, arch.head_dim) if "head_dim" in DIMS[kind] else flat
            replacement = tap(kind, shaped)
            if replacement is not None:
                parts[index], changed = replacement.reshape(flat.shape), True
        return joined(parts) if changed else None

    return hook


def _argument(tap: Collector, kind: str, shape: tuple[int, int]) -> Hook:
    """A forward pre-hook: the module's only argument is the tap; [B S, ...] is taken as [B, S, ...]."""

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor] | None:
        replacement = tap(kind, args[0].reshape(*shape, -1))
        return None if replacement is None else (replacement.reshape(args[0].shape),)

    return hook


def _shared_argument(tap: Collector, kind: str) -> Hook:
    """A forward pre-hook for an argument that the caller goes on using: it is replaced in place.

    The residual path holds the same tensor that the norm is given; handing the norm another one would leave the
    old value in the sum.
    """

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        replacement = tap(kind, args[0])
        if replacement is not None:
            args[0].copy_(replacement)

    return hook
