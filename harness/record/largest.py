"""The largest logits of the reference, and what is kept of all the others. See `harness.top`."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from harness.errors import UsageError
from harness.taps import Tap

LOGITS = "logits"


def largest(logits: Tensor, count: int) -> Tensor:
    """The ids of the largest logits, largest first; of equal ones the lower id first: the same on every run.

    Args:
        logits: [batch, position, vocab], finite.

    Returns:
        int64 [batch, position, count].
    """
    values, ids = logits.topk(count, dim=-1)
    if ((logits >= values[..., -1:]).sum(-1) > count).any():  # equal ones, some left out
        return logits.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    ids = ids.sort(dim=-1).values
    order = logits.gather(-1, ids).sort(dim=-1, descending=True, stable=True).indices
    return ids.gather(-1, order)


def beside(logits: Tensor, ids: Tensor) -> dict[str, Tensor]:
    """What is stored beside the largest logits, by name (`harness.layout.TOP`).

    Args:
        logits: truth, float64 [batch, position, vocab].
        ids: of the largest.
    """
    total = logits.logsumexp(-1)
    outside = (logits - total[..., None]).exp().scatter(-1, ids, 0.0)
    return {
        "ids": ids.to(torch.int32),
        "log_sum_exp": total,
        "outside": outside.sum(-1),
        "outside_logit": (outside * logits).sum(-1),
    }


def narrowed(values: Mapping[str, Tensor], ids: Tensor | None) -> Mapping[str, Tensor]:
    """Taps by kind, of the logits those with these ids alone; None is all."""
    if ids is None or LOGITS not in values:
        return values
    return {**values, LOGITS: values[LOGITS].gather(-1, ids)}


def refuse_count(count: int, vocabulary: int, logits: Collection[Tap]) -> None:
    """Refuse to store the largest logits where there are no more, or none.

    Args:
        logits: what is recorded of them.

    Raises:
        UsageError: so it is.
    """
    if count >= vocabulary:
        problem = "the vocabulary has no more logits than are to be stored"
        hint = "leave --logits out: all of them are stored then"
        raise UsageError(problem, f"--logits top-{count}", f"fewer than {vocabulary:,}", hint=hint)
    if not logits:
        problem = "the largest logits are asked for, and no logits are recorded"
        raise UsageError(problem, f"--logits top-{count}", hint="add --taps logits, or leave --logits out")
