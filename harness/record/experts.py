"""Experts and their routers, through transformers' own modules: taps, the truth's choice, weights as stored.

transformers lets a model use an experts function by name. Ours, `goldens_experts`, does what its eager one does,
bit for bit, with the matrices of one expert at a time at the precision of the stream: in float64 a whole layer of
DeepSeek-V3 would take 90 GB.

A router's own code decides. Where a stream is pinned, every topk of it returns what it did in the truth, with
values of the stream's own: floors then measure arithmetic, and not that another expert was chosen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from harness.checkpoint import Checkpoint
from harness.families.parameters import CORRECTION
from harness.record.promote import EveryCall

NAME = "goldens_experts"
KEPT_BYTES, KEPT_SHARE = 512 * 2**20, 1 / 3  # of a layer's experts: always, and of the memory that is available
Tap = Callable[[str, Tensor], Tensor | None]
Choice = Sequence[Tensor]  # the indices of every topk of a router, in order


class StoredExperts:
    """The matrices of a layer's experts, as the checkpoint has them, read one expert at a time when it is chosen.

    As many as there is room for are kept, and the first ones: every pass goes through them in the same order, so
    that those which came last are asked for last.

    Args:
        names: of the parameters of all experts, by their last names.
    """

    def __init__(self, checkpoint: Checkpoint, names: Mapping[str, str], device: torch.device) -> None:
        self._checkpoint, self._names, self._device = checkpoint, names, device
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._room = room()

    def of(self, expert: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """One expert's own, by the last names of the parameters."""
        own = self._kept.get(expert)
        if own is None:
            own = self._read(expert)
            size = sum(tensor.nbytes for tensor in own.values())
            if size <= self._room:
                self._kept[expert] = own
                self._room -= size
        return {name: tensor.to(self._device, dtype) for name, tensor in own.items()}

    def _read(self, expert: int) -> dict[str, Tensor]:
        here = slice(expert, expert + 1)
        with torch._C.DisableTorchFunction():  # in the midst of a pass, whose arithmetic is another one
            stored = {last: tensor_of(self._checkpoint.read(name, here))[0] for last, name in self._names.items()}
            # Copies, which torch has aligned: how a kernel rounds may depend on where a matrix lies.
            return {last: tensor.clone() for last, tensor in stored.items()}


def room() -> int:
    """How many bytes of a layer's experts are kept."""
    return max(KEPT_BYTES, int(KEPT_SHARE * psutil.virtual_memory().available))


def tensor_of(array: np.ndarray) -> Tensor:
    """A stored array as a tensor; torch reads numpy's bfloat16 only through its bits."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def experts_one_by_one(module: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of the chosen experts' outputs, [token, hidden].

    Args:
        module: transformers' own, whose parameters are `module.stored`.
        chosen, weights: [token, chosen].
    """
    out = torch.zeros_like(hidden)
    apart = getattr(module, "apart", None)
    each = _each(module, hidden, chosen) if apart is None else _tapped(module, hidden, chosen, apart)
    for rank, token, y in each:
        out.index_add_(0, token, (y * weights[token, rank, None]).to(out.dtype))
    return out


def _each(module: Any, hidden: Tensor, chosen: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Expert by expert: which rank it has of the choice of which tokens, and what it makes of them."""
    for expert in chosen.unique().tolist():
        # As eager has them: by rank of the choice first, so that products are of the same rows in the same order.
        rank, token = torch.where((chosen == expert).T)
        own = module.stored.of(expert, hidden.dtype)
        y = _linear(module, hidden[token], own, "gate_up_proj")
        yield rank, token, _linear(module, module._apply_gate(y), own, "down_proj")


def _tapped(
    module: Any, hidden: Tensor, chosen: Tensor, apart: Callable[[Tensor], Tensor]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The same, of what the tap of [token, chosen, hidden] gives for it, in the order of the experts' numbers."""
    place = chosen.argsort(dim=-1).argsort(dim=-1)  # [token, rank]
    made = hidden.new_zeros((*chosen.shape, hidden.shape[-1]))
    who = []
    for rank, token, y in _each(module, hidden, chosen):
        made[token, place[token, rank]] = y
        who.append((rank, token))
    made = apart(made)
    yield from ((rank, token, made[token, place[token, rank]]) for rank, token in who)


def _linear(module: Any, x: Tensor, own: Mapping[str, Tensor], name: str) -> Tensor:
    y = x @ own[name] if module.is_transposed else nn.functional.linear(x, own[name])
    return y + own[f"{name}_bias"] if f"{name}_bias" in own else y


ALL_EXPERTS_FUNCTIONS.register(NAME, experts_one_by_one)


@contextlib.contextmanager
def tapped_experts(module: Any, tap: Tap, shape: tuple[int, int]) -> Iterator[None]:
    """The tap of what each chosen expert makes of a token, for the time of the block.

    Args:
        module: transformers' own, whose function is `experts_one_by_one`.
        shape: [batch, position] of the tokens.
    """

    def apart(made: Tensor) -> Tensor:
        replaced = tap("expert_out", made.view(*shape, *made.shape[1:]))
        return made if replaced is None else replaced.reshape(made.shape).to(made.dtype)

    module.apart = apart
    try:
        yield
    finally:
        del module.apart


@contextlib.contextmanager
def tapped_router(
    router: nn.Module, tap: Tap, shape: tuple[int, int], pinned: Choice | None, made: list[Tensor]
) -> Iterator[None]:
    """The taps of a router, for the time of the block.

    Args:
        shape: [batch, position] of the tokens.
        pinned: what it chose in the truth; None: it chooses.
        made: is given what it chooses.
    """
    own = router.forward
    correction = getattr(router, CORRECTION, None)

    def through(kind: str, value: Tensor) -> Tensor:
        replaced = tap(kind, value.view(*shape, -1))
        return value if replaced is None else replaced.reshape(value.shape).to(value.dtype)

    def forward(hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with _Choosing(through, correction, pinned) as choosing:
            logits, weights, chosen = own(hidden)
        made.extend(choosing.made)
        dense = torch.zeros(logits.shape, dtype=weights.dtype, device=weights.device).scatter(-1, chosen, weights)
        routing = tap("routing", dense.view(*shape, -1))
        if routing is None:
            return logits, weights, chosen
        given = routing.reshape(dense.shape).to(weights.dtype)
        weights = given.gather(-1, chosen)
        if not weights.all():  # other experts; where they are the same, so is their order, and every bit
            weights, chosen = given.topk(weights.shape[-1], dim=-1)
        return logits, weights, chosen

    router.forward = forward
    try:
        yield
    finally:
        del router.forward


class _Choosing(EveryCall):
    """Looks at, and into, what a router computes.

    Args:
        through: is given logits and corrected scores, by kind of tap, and gives what goes on.
        correction: the parameter that scores are corrected by, where there is one.
        pinned: what every topk gives.

    Attributes:
        made: what every topk gave.
    """

    def __init__(
        self, through: Callable[[str, Tensor], Tensor], correction: Tensor | None, pinned: Choice | None
    ) -> None:
        super().__init__()
        self._through, self._correction, self._pinned = through, correction, pinned
        self.made: list[Tensor] = []

    def called(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        result = func(*args, **kwargs)
        if func is nn.functional.linear:
            return self._through("router_logits", result)
        if func in _ADD and self._correction is not None and any(arg is self._correction for arg in args):
            return self._through("router_scores", result)
        if func in _TOPK:
            if self._pinned is not None:
                indices = self._pinned[len(self.made)]
                result = torch.return_types.topk((args[0].gather(-1, indices), indices))
            self.made.append(result.indices)
        return result


_TOPK = (torch.topk, torch.Tensor.topk)
_ADD = (torch.add, torch.Tensor.add, torch.Tensor.__add__)
