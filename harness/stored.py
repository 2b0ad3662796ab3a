"""The tensors of a checkpoint directory as its files have them: neither torch nor jax, and nothing is interpreted.

One `model.safetensors`, or shards with `model.safetensors.index.json`. transformers reads the former where there
is one and passes over an index beside it; others read the index, or every *.safetensors that they find. Where two
readers would read different weights nothing is read.

Reading a tensor touches only its own bytes, and leaves none of them mapped: memory holds what is in use, however
large the file is.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from jaxtyping import Num
from safetensors import SafetensorError, safe_open

from harness.errors import CheckpointError
from harness.foreign import MIB, open_regular, parse, read_regular
from harness.golden import ParameterEntry

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LONGEST = 64 * MIB  # of an index
AGAIN = "copy the checkpoint again, without files of another one"
FP8 = "F8_E4M3"
# Of what safetensors gives no numpy array, though ml_dtypes has the dtype.
OURS: Mapping[str, np.dtype] = {FP8: np.dtype(ml_dtypes.float8_e4m3fn)}
PART = 2**24  # elements of a tensor that are hashed at once
LENGTH = 8  # bytes of the header's length
ONE_CHECKPOINT = "config.json and the weights must come from one checkpoint"
INTO_AN_EMPTY_ONE = "copy the checkpoint again, into an empty directory"
NOT_FILLED_IN = "copy the checkpoint again; nothing is filled in for a parameter that is not there"


def unfit(
    problem: str, where: object, expected: object, found: object, hint: str = ONE_CHECKPOINT
) -> CheckpointError:
    """The refusal of tensors that do not fit what the config, or the golden, says of them."""
    return CheckpointError(problem, where, expected, found, hint=hint)


class StoredTensors:
    """What a checkpoint directory holds, by the names in its files.

    Attributes:
        dtypes: as safetensors writes them (`BF16`).
        shapes: of each.

    Raises:
        CheckpointError: no safetensors, or two sets of them; a shard that is missing, damaged, or does not hold
            what the index says.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.dtypes: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._home = homes(directory)
        for path in dict.fromkeys(self._home.values()):
            with _open(path) as file:
                for name in file.keys():  # noqa: SIM118
                    if self._home.get(name) == path:
                        header = file.get_slice(name)
                        self.dtypes[name], self.shapes[name] = header.get_dtype(), tuple(header.get_shape())

    @property
    def names(self) -> tuple[str, ...]:
        """Sorted."""
        return tuple(sorted(self._home))

    def read(self, name: str, rows: slice = slice(None)) -> Num[np.ndarray, "..."]:
        """One tensor (bfloat16 and float8 as ml_dtypes has them).

        Args:
            rows: of the first dimension, those that are read; they follow one another.
        """
        path = self._home[name]
        # Opened anew for each tensor: a mapping that stays open keeps every page that was ever read, so that a
        # pass over 15 GB of weights would end with 15 GB resident.
        with _open(path) as file:
            if self.dtypes[name] not in OURS:
                if rows == slice(None):
                    whole: np.ndarray = file.get_tensor(name)
                    return whole
                start, stop, _ = rows.indices(self.shapes[name][0])
                some: np.ndarray = file.get_slice(name)[start:stop]
                return some
        return _read_bytes(path, name, OURS[self.dtypes[name]], self.shapes[name], rows)

    def parts(self, name: str) -> Iterator[tuple[int, Num[np.ndarray, "..."]]]:
        """A tensor by consecutive rows, few enough that no large one is in memory whole, each with its first."""
        shape = self.shapes[name]
        if not shape or math.prod(shape) == 0:
            yield 0, self.read(name)
            return
        step = max(1, PART // math.prod(shape[1:]))
        for start in range(0, shape[0], step):
            yield start, self.read(name, slice(start, start + step) if step < shape[0] else slice(None))


def homes(directory: Path) -> dict[str, Path]:
    """Parameter name -> the file that holds it.

    Raises:
        CheckpointError: no weights, or two sets of them; an adapter beside them; an index that cannot be read, or
            shards that do not hold exactly what it says.
    """
    _refuse_adapter(directory)
    single, index = directory / SINGLE, directory / INDEX
    if index.exists() and single.exists():
        problem = "the checkpoint has one file of weights and an index of shards besides"
        expected, both = f"{SINGLE}, or shards with {INDEX}", f"{SINGLE} and {INDEX}"
        hint = f"remove those that are not meant: transformers reads {SINGLE}, other readers the shards"
        raise CheckpointError(problem, directory, expected, both, hint=hint)
    if not index.exists():
        return dict.fromkeys(_names(single), single)
    mapped = _weight_map(index)
    stored: dict[str, str] = {}
    for shard in sorted(set(mapped.values())):
        for name in _names(directory / shard):
            if name in stored:
                both = f"{stored[name]} and {shard}"
                raise CheckpointError("two shards hold one parameter", name[:200], found=both, hint=AGAIN)
            stored[name] = shard
    for name in (*mapped, *stored):
        if mapped.get(name) != stored.get(name):
            expected, held = (of.get(name, "no such parameter") for of in (mapped, stored))
            problem, where = "the shards do not hold what their index says", f"{index}: {name[:200]}"
            raise CheckpointError(problem, where, expected, held, hint=AGAIN)
    return {name: directory / shard for name, shard in stored.items()}


def _refuse_adapter(directory: Path) -> None:
    if (directory / "adapter_config.json").exists():
        from harness.recognise import by_files

        problem = (
            "the checkpoint has an adapter beside its weights, which transformers loads where peft is installed"
        )
        raise CheckpointError(
            problem, directory / "adapter_config.json", hint=f"{by_files(['adapter_config.json'])}; or remove it"
        )


def _weight_map(index: Path) -> dict[str, str]:
    """Parameter name -> name of its shard, as the index says."""
    try:
        document = parse(read_regular(index, LONGEST))
        shards = document["weight_map"]
        if not shards or not all(_is_plain(shard) for shard in shards.values()):
            raise ValueError("weight_map is not a table of parameters and names of files beside it")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        problem = f"the index of the shards cannot be read: {error!r}"[:300]
        raise CheckpointError(problem, index, hint="copy it again") from None
    return dict(shards)


def _is_plain(shard: object) -> bool:
    """Whether it is the name of a file in the same directory."""
    return isinstance(shard, str) and Path(shard).name == shard and "\0" not in shard


def entry_of(parts: Iterable[Num[np.ndarray, "..."]]) -> ParameterEntry:
    """Shape, dtype and sha256 (over its bytes) of a tensor that comes in consecutive rows, or at once."""
    digest, shape, dtype = hashlib.sha256(), None, ""
    for part in parts:
        part = np.ascontiguousarray(part)
        digest.update(part.reshape(-1).view(np.uint8).data)
        dtype = part.dtype.name
        shape = part.shape if shape is None else (shape[0] + part.shape[0], *shape[1:])
    return ParameterEntry(tuple(shape or ()), dtype, digest.hexdigest())


def _read_bytes(
    path: Path, name: str, dtype: np.dtype, shape: tuple[int, ...], rows: slice
) -> Num[np.ndarray, "..."]:
    """A tensor by the place that the header gives it, which safetensors has seen to be right."""
    start, stop, _ = rows.indices(shape[0]) if shape else (0, 1, 1)
    row = dtype.itemsize * math.prod(shape[1:])
    count = max(0, stop - start)
    with open_regular(path) as file:
        length = int.from_bytes(file.read(LENGTH), "little")
        begin, _end = json.loads(file.read(length))[name]["data_offsets"]
        file.seek(LENGTH + length + begin + start * row)
        raw = np.fromfile(file, np.uint8, count * row)
    if raw.size != count * row:
        raise _damaged(path, "it ends before its header says")
    return raw.view(dtype).reshape(count, *shape[1:]) if shape else raw.view(dtype).reshape(())


def _names(path: Path) -> tuple[str, ...]:
    with _open(path) as file:
        return tuple(file.keys())


def _open(path: Path) -> safe_open:
    try:
        open_regular(path).close()  # safetensors would wait for a FIFO
        return safe_open(path, framework="np")
    except FileNotFoundError:
        from harness.recognise import without_weights

        hint = without_weights(path.parent)
        raise CheckpointError("the checkpoint has no such file", path, hint=hint) from None
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, why: object) -> CheckpointError:
    return CheckpointError(f"the weights cannot be read: {why}", path, hint="copy the file again; it is damaged")
