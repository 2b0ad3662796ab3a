"""Noise floors: how far PyTorch itself is from the truth, at a precision, per position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harness.errors import RecordError
from harness.metrics import per_position
from harness.taps import Tap

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
Floors = Float[np.ndarray, "tap 2 batch position"]


def rounded(truth: Tensor, precision: str) -> Tensor:
    """Truth as a value of that precision, float64 -> float32 -> precision.

    In two steps, because that is what every library does in the same way: from float64 straight to bfloat16
    some round twice and some do not.
    """
    return truth.to(torch.float32).to(DTYPES[precision])


def noise_floors(
    values: Mapping[str, Tensor], truth: Mapping[str, Tensor], taps: Sequence[Tap], stream: str
) -> Floors:
    """rms and largest absolute value of (PyTorch at a precision, widened to float64) - truth.

    Args:
        values: kind -> the tap as PyTorch computed it at that precision.
        truth: kind -> the tap in float64, finite.
        taps: of one stage, in their order.
        stream: what to call this pass in a message, `float32 forward`.

    Returns:
        float32 [tap, statistic (rms, max), batch, position].

    Raises:
        RecordError: PyTorch gives a value that is not finite at this precision.
    """
    floors = []
    for tap in taps:
        error = (values[tap.kind].to(torch.float64) - truth[tap.kind]).cpu().numpy()
        floor = np.stack(per_position(error, tap.position_axis))
        if not np.isfinite(floor).all():
            raise not_finite(tap.name, stream)
        floors.append(floor)
    return np.stack(floors).astype(np.float32)


def not_finite(tap: str, stream: str) -> RecordError:
    return RecordError(
        "the reference itself is not finite",
        where=f"{tap}, {stream}",
        expected="finite values",
        found="NaN or infinity",
        hint="a weight is not finite, or the model overflows here: nothing can be compared with this reference",
    )
