"""Parameters that files do not have as models do: matrices of each expert, where transformers has one for all of
them, and quantised weights, widened to bfloat16 in numpy: MXFP4 as gpt-oss is published, FP8 in blocks as
DeepSeek-V3 is.

What a parameter is, where it is stored quantised, is defined by the code that is published with it:

- **MXFP4**: two values of 4 bits a byte, the lower half first, 32 of them with a scale of 2^(s - 127). Every
  product is exact in bfloat16, but for those beyond its range. Matrices are stored [expert, output, input], and
  are [expert, input, output] in transformers. A scale of 255 is NaN, as the format says.
- **FP8**: float8_e4m3fn, with a float32 scale for each block of rows and columns (`weight_scale_inv`), of which
  those at the edges may be smaller. The product is made in float32 and rounded to bfloat16: what DeepSeek's
  `fp8_cast_bf16.py` writes, which ports load, and what transformers makes where it widens weights as it loads
  them. (transformers 5 takes the size of blocks from the number of scales. Where blocks at an edge are smaller, as
  in DeepSeek-V3's own `kv_a_proj_with_mqa` of 576 rows, it refuses the matrix, or divides it wrongly.)

In every precision that is recorded, the truth included, these are the weights.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path

import ml_dtypes
import numpy as np
from jaxtyping import Float32, Num, Shaped, UInt8

from harness.errors import CheckpointError
from harness.families.neutral import FIELD, FP8, KEPT, MXFP4, Quantisation
from harness.stored import FP8 as F8
from harness.stored import NOT_FILLED_IN, ONE_CHECKPOINT, unfit

Each = Mapping[str, tuple[str, ...]]
Pieces = Sequence[Sequence[str]]  # by expert, the tensors whose outputs follow one another
Shape = tuple[int, ...]
Read = Callable[[str, slice], Num[np.ndarray, "..."]]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# By method: what the names of a parameter's two tensors end with, and their dtypes: values, and scales.
TENSORS: Mapping[str, tuple[tuple[str, str], tuple[str, str]]] = {
    FP8: (("", F8), ("_scale_inv", "F32")),
    MXFP4: (("_blocks", "U8"), ("_scales", "U8")),
}
_FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
_BYTES = np.arange(256, dtype=np.uint8)
_PAIRS = np.stack([_FP4[_BYTES & 15], _FP4[_BYTES >> 4]], axis=-1).reshape(-1).view(np.uint64)
_FP8 = _BYTES.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
_POWERS = np.append(np.ldexp(np.float32(1), np.arange(255) - 127), np.float32(np.nan))
MOST_SCALE = {FP8: float(ml_dtypes.finfo(BFLOAT16).max) / 512, MXFP4: 252}  # up to it nothing overflows
NAN = 0x7F  # of float8_e4m3fn, without its sign


@dataclass(frozen=True)
class Quantised:
    """A parameter that is stored quantised.

    Attributes:
        values, scales: the tensors that it is stored in.
        shape: that of the parameter.
    """

    how: Quantisation
    values: str
    scales: str
    shape: Shape

    def read(self, read: Read, rows: slice = slice(None)) -> Shaped[np.ndarray, "..."]:
        """The parameter in bfloat16, or some rows of it."""
        if self.how.method == MXFP4:
            return from_mxfp4(read(self.values, rows), read(self.scales, rows))
        start, stop, _ = rows.indices(self.shape[0])
        high, first = self.how.block[0], start // self.how.block[0]
        scales = read(self.scales, slice(first, ceil(stop / high)))
        return from_fp8(read(self.values, slice(start, stop)), scales, self.how.block, start - first * high)

    def suspect(self, name: str, part: Num[np.ndarray, "..."]) -> bool:
        """Whether something of one of the two tensors may give a value that is not finite."""
        if name == self.scales:
            return not bool((np.abs(part) <= MOST_SCALE[self.how.method]).all())
        return self.how.method == FP8 and bool(((part.view(np.uint8) & NAN) == NAN).any())


def from_mxfp4(
    blocks: UInt8[np.ndarray, "expert output group 16"], scales: UInt8[np.ndarray, "expert output group"]
) -> Shaped[np.ndarray, "expert input output"]:
    """The matrices of experts, in bfloat16."""
    experts, outputs, groups, _ = blocks.shape
    made = np.empty((experts, groups * 32, outputs), BFLOAT16)
    for expert in range(experts):
        values = np.take(_PAIRS, blocks[expert]).view(np.float32)  # [output, group, 32]
        with np.errstate(all="ignore"):
            values *= _POWERS[scales[expert]][..., None]
            made[expert] = values.astype(BFLOAT16).reshape(outputs, -1).T
    return made


def from_fp8(
    values: Shaped[np.ndarray, "row column"],
    scales: Float32[np.ndarray, "high wide"],
    block: tuple[int, int],
    start: int = 0,
) -> Shaped[np.ndarray, "row column"]:
    """A matrix, or some rows of it, in bfloat16.

    Args:
        start: the row of its block that the first row is.
    """
    rows, columns = values.shape
    high, wide = block
    made = np.empty((rows, columns), BFLOAT16)
    first = 0
    for index in range(len(scales)):
        last = min(rows, (index + 1) * high - start)
        widened = _float32(values[first:last].view(np.uint8))
        with np.errstate(all="ignore"):
            widened *= np.repeat(scales[index], wide)[:columns]
            made[first:last] = widened.astype(BFLOAT16)
        first = last
    return made


def _float32(codes: UInt8[np.ndarray, "row column"]) -> Float32[np.ndarray, "row column"]:
    """Values of float8_e4m3fn; two at a time where there are as many, which takes a quarter of the time."""
    if codes.shape[1] % 2 or not codes.flags.c_contiguous:
        return np.take(_FP8, codes)
    return np.take(_two(), codes.view(np.uint16)).view(np.float32)


@cache
def _two() -> Shaped[np.ndarray, "65536"]:
    """By the codes of two neighbours as one number, both values as one number."""
    codes = np.arange(2**16, dtype=np.uint16).view(np.uint8)
    values: np.ndarray = np.take(_FP8, codes).view(np.uint64)
    return values


def quantised_parameters(
    how: Quantisation, dtypes: Mapping[str, str], shapes: Mapping[str, Shape], where: object
) -> dict[str, Quantised]:
    """The parameters that are stored quantised, by name.

    Args:
        dtypes, shapes: of all tensors, by the names that modules have for them.
        where: the directory, for messages.

    Raises:
        CheckpointError: values without scales or scales without values; dtypes or shapes that do not fit; a module
            that is not to be quantised; no such parameter at all.
    """
    (value, value_dtype), (scale, scale_dtype) = TENSORS[how.method]
    packed = {}
    names = {name.removesuffix(value) for name in dtypes if name.endswith(value) and dtypes[name] == value_dtype}
    names |= {name.removesuffix(scale) for name in dtypes if name.endswith(scale)}
    for name in sorted(names):
        values, scales = f"{name}{value}", f"{name}{scale}"
        for tensor, dtype in ((values, value_dtype), (scales, scale_dtype)):
            if dtypes.get(tensor) != dtype:
                problem = "a quantised parameter is stored in two tensors, "
                problem += "and one of them is not there as it should be"
                hint = f"copy the checkpoint again; {ONE_CHECKPOINT}"
                raise unfit(problem, f"{where}: {tensor[:200]}", dtype, dtypes.get(tensor, "nothing"), hint)
        if any(_named(name, pattern) for pattern in how.kept):
            problem = "a parameter is quantised, and the config says that its module is not"
            expected = f"no {values[:200]}: {FIELD}.{KEPT} names it"
            raise unfit(problem, f"{where}: {name[:200]}", expected, dtypes[values])
        packed[name] = Quantised(how, values, scales, _shape(how, values, shapes[values], shapes[scales], where))
    if not packed:
        problem = f"the config says that weights are quantised ({how.method}), and none are"
        expected = f"parameters in {value_dtype}, with scales that are called {scale}"
        hint = f"where these are the weights as they were widened, remove {FIELD} from a copy of config.json"
        raise unfit(problem, f"{where}: {FIELD}", expected, "none", hint)
    return packed


def _shape(how: Quantisation, name: str, values: Shape, scales: Shape, where: object) -> Shape:
    """The shape of the parameter."""
    if how.method == MXFP4:
        shape, fits = "[expert, output, group, 16], and scales without the last", values == (*scales, 16)
        fits = fits and len(scales) == 3
    else:
        shape, fits = f"[row, column], and a scale for each block of {how.block}", len(values) == 2
        fits = fits and scales == tuple(ceil(n / size) for n, size in zip(values, how.block, strict=True))
    if not fits:
        problem = "the scales of a quantised parameter do not fit its values"
        raise unfit(problem, f"{where}: {name[:200]}", shape, f"{list(values)} and {list(scales)}")
    return values if how.method == FP8 else (scales[0], scales[2] * 32, scales[1])


def _named(name: str, pattern: str) -> bool:
    """Whether a module's pattern is that of this parameter: `*` stands for anything, a name for all within it."""
    return any(fnmatch.fnmatchcase(name, form) for form in (f"{pattern}.*", f"*.{pattern}.*", pattern))


def cut(
    tensor: Num[np.ndarray, "expert output ..."], pieces: Pieces
) -> Iterator[tuple[str, Num[np.ndarray, "..."]]]:
    """A parameter as files have it: its pieces, by name; those of an expert have as many outputs each."""
    for own, parts in zip(tensor, pieces, strict=True):
        for part, piece in zip(parts, np.split(own, len(parts)), strict=True):
            yield part, np.ascontiguousarray(piece)


def pieces_of(names: Iterable[str], each: Each, where: Path) -> dict[str, Pieces]:
    """The parameters that are stored in pieces, by their names in the modules of transformers.

    Args:
        names: of all tensors, as modules call them.
        each: see `Family.each`.

    Raises:
        CheckpointError: a piece of one is missing.
    """
    by_target: dict[str, dict[int, dict[int, str]]] = {}
    for name in names:
        for target, expert, part in _matches(name, each):
            by_target.setdefault(target, {}).setdefault(expert, {})[part] = name
    made: dict[str, Pieces] = {}
    for target, experts in by_target.items():
        path = next(path for path in each if target.endswith(path))
        prefix = target.removesuffix(path)
        count = max(experts) + 1
        for expert in range(count):
            for part, template in enumerate(each[path]):
                if part not in experts.get(expert, {}):
                    lacking = f"{where}: {prefix}{template.format(expert)}"[:300]
                    problem, expected = (
                        "the checkpoint lacks a matrix of an expert",
                        f"one of each of {count} experts",
                    )
                    raise CheckpointError(problem, lacking, expected, "nothing", hint=NOT_FILLED_IN)
        made[target] = [[experts[n][part] for part in range(len(each[path]))] for n in range(count)]
    return made


def _matches(name: str, each: Each) -> Iterator[tuple[str, int, int]]:
    """The parameter that a tensor is a piece of, of which expert, and which part of its outputs."""
    for path, templates in each.items():
        for part, template in enumerate(templates):
            before, after = (re.escape(text) for text in template.split("{}"))
            match = re.fullmatch(rf"(.*\.){before}(\d{{1,5}}){after}", name)
            if match:
                yield f"{match[1]}{path}", int(match[2]), part
