"""Noise floors: how far PyTorch itself is from the truth, at a precision, per position.

PyTorch's error is one draw of its rounding, and where a position has few numbers a draw can be small by luck. So
every pass is drawn several times: once as it is, then with inputs some of which are one unit in the last place
off, which rounds everything downstream anew. What is recorded of the draws is what `harness.calibration` needs to
say how far a correct port can be from the truth: how large the error is, in how many numbers, and how much it
varies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.errors import RecordError
from harness.golden import NOISE_STATISTICS
from harness.taps import Tap

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
Floors = Float[np.ndarray, "tap statistic batch position"]

# One value in so many is moved by a nudge: few enough that the nudge itself is small beside the rounding of the
# operations, many enough that every sum has some of them.
ONE_IN = 8
BLOCK = 1 << 18  # numbers, of all draws: a megabyte for each of two cores
NUDGED = 1 << 15  # numbers at a time: they stay in a core's cache
# A case of up to so many tokens has few numbers at every position, and costs little: it is drawn more often.
SHORT, DRAWS_OF_SHORT, DRAWS = 64, 4, 2


def draws_of(tokens: int) -> int:
    """How many draws a case of that many tokens gets, the first being PyTorch as it is."""
    return DRAWS_OF_SHORT if tokens <= SHORT else DRAWS


def rounded(truth: Tensor, precision: str) -> Tensor:
    """Truth as a value of that precision, float64 -> float32 -> precision.

    In two steps, because that is what every library does in the same way: from float64 straight to bfloat16
    some round twice and some do not.
    """
    return truth.to(torch.float32).to(DTYPES[precision])


def nudged(value: Tensor, seed: str) -> Tensor:
    """The values, one in `ONE_IN` of them one unit in the last place larger or smaller; a zero stays what it is.

    Args:
        value: float32 or bfloat16, finite.
        seed: decides which, and which way: the same on every run.
    """
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7]))
    bits = value.contiguous().view(BITS[value.dtype]).cpu()
    moved = torch.empty_like(bits)  # by torch, so that it is aligned
    flat, out = bits.reshape(-1).numpy(), moved.view(-1).numpy()
    unsigned = np.iinfo(flat.dtype).max
    for start in range(0, flat.size, NUDGED):
        here = flat[start : start + NUDGED]
        chance = torch.randint(0, 2 * ONE_IN, here.shape, generator=generator, dtype=torch.int8).numpy()
        step = (chance == 0).view(np.int8) - (chance == 1).view(np.int8)
        step *= here & unsigned != 0
        np.add(here, step, out[start : start + NUDGED])
    return moved.view(value.dtype).to(value.device)


def noise_floors(
    draws: Sequence[Mapping[str, Tensor]], truth: Mapping[str, Tensor], taps: Sequence[Tap], stream: str
) -> Floors:
    """What PyTorch's error (at a precision, widened to float64, minus truth) is, over several draws of it.

    Args:
        draws: for each draw kind -> the tap as PyTorch computed it at that precision.
        truth: kind -> the tap in float64, finite.
        taps: of one stage, in their order.
        stream: what to call this pass in a message, `float32 forward`.

    Returns:
        float32 [tap, statistic, batch, position], the statistics as in `harness.golden.NOISE_STATISTICS`.

    Raises:
        RecordError: PyTorch gives a value that is not finite at this precision.
    """
    each = zip(*(_sums(draws, truth, tap) for tap in taps), strict=True)
    sums, largest, fourth = (torch.stack(part, dim=1) for part in each)  # [draw, tap, batch, position]
    numbers = torch.tensor([truth[tap.kind].numel() // sums[0, 0].numel() for tap in taps])
    floors = _statistics(sums, largest, fourth, numbers[:, None, None])
    for tap, most in zip(taps, floors[:, NOISE_STATISTICS.index("max")], strict=True):
        if not np.isfinite(most).all():
            raise not_finite(tap.name, stream)
    return floors.astype(np.float32)


PerDraw = Float[Tensor, "draw batch position"]


def _sums(
    draws: Sequence[Mapping[str, Tensor]], truth: Mapping[str, Tensor], tap: Tap
) -> tuple[PerDraw, PerDraw, PerDraw]:
    """The sum of one tap's squared errors, their largest, and the sum of fourth powers.

    Some positions at a time: what is computed of them stays in a core's cache.
    """
    expected = truth[tap.kind].movedim(tap.position_axis, 1)  # [batch, position, ...]
    values = [draw[tap.kind].movedim(tap.position_axis, 1) for draw in draws]
    step = max(1, BLOCK * expected.shape[1] // max(1, expected.numel() * len(draws)))
    parts = []
    for here in (slice(start, start + step) for start in range(0, expected.shape[1], step)):
        truth_here = expected[:, here]
        errors = torch.empty((len(values), *truth_here.shape), dtype=torch.float64, device=truth_here.device)
        for error, value in zip(errors, values, strict=True):
            error.copy_(value[:, here]).sub_(truth_here)
        flat = errors.flatten(3).cpu()
        squares = flat.mul_(flat)
        parts.append((squares.sum(-1), squares.amax(-1), squares.mul_(squares).sum(-1)))
    sums, largest, fourth = (torch.cat(part, dim=-1) for part in zip(*parts, strict=True))
    return sums, largest, fourth


PerTap = Float[Tensor, "draw tap batch position"]


def _statistics(
    sums: PerTap, largest: PerTap, fourth: PerTap, numbers: Int[Tensor, "tap 1 1"]
) -> Float[np.ndarray, "tap statistic batch position"]:
    mean = sums / numbers
    # The participation ratio, 3 (sum e^2)^2 / sum e^4: n for n Gaussian errors of one size, 3 at least, or all
    # that there are, where one number has nearly all of the error.
    share = torch.where(fourth > 0, 3 * sums.square() / fourth, torch.ones_like(fourth))
    logs = torch.where(mean > 0, mean, mean.amax(0, keepdim=True).clamp(min=1e-300) * 1e-6).log()
    spread = logs.var(0) if len(sums) > 1 else torch.zeros_like(mean[0])
    statistics = {
        "rms": mean.mean(0).sqrt(),
        "max": largest.mean(0).sqrt(),
        "numbers": share.mean(0).clamp(torch.ones_like(numbers), numbers),
        "spread": torch.where(mean.amax(0) > 0, spread, torch.zeros_like(spread)),
    }
    return np.asarray(torch.stack([statistics[name] for name in NOISE_STATISTICS], dim=1).numpy())


def not_finite(tap: str, stream: str) -> RecordError:
    problem = "the reference itself is not finite"
    hint = "a weight is not finite, or the model overflows here: nothing can be compared with this reference"
    return RecordError(problem, f"{tap}, {stream}", "finite values", "NaN or infinity", hint=hint)
