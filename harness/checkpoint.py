"""A checkpoint directory in Hugging Face format, read tensor by tensor: neither torch nor jax.

One `model.safetensors`, or shards with `model.safetensors.index.json` (see `harness.shards`). Reading a tensor
touches only its own bytes, and leaves none of them mapped: memory holds what is in use, however large the file is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes  # noqa: F401 - importing it teaches bfloat16 to numpy, and so to safetensors
import numpy as np
from jaxtyping import Num
from safetensors import SafetensorError, safe_open

from harness import recognise
from harness.architecture import Config, family_of
from harness.errors import CheckpointError
from harness.families.family import Family
from harness.golden import ParameterEntry
from harness.pieces import Each, pieces_of
from harness.regular import open_regular
from harness.shards import homes

# What weights are read in, as safetensors writes it. Anything else is quantised, packed, or no weight.
FURTHER, MOST_FURTHER = ("num_nextn_predict_layers", "num_mtp_layers"), 16  # layers, by either name
DTYPES = ("F64", "F32", "F16", "BF16")


class Checkpoint:
    """The tensors of a checkpoint directory, by the names that the modules of transformers have for them.

    Args:
        renamed: patterns of names in files, and what stands for a match in the name of a module's parameter; None
            for a tensor that is no parameter of the model, which is passed over.
        each: of which parameters files may have the pieces (`Family.each`).

    Attributes:
        stored: by these names, the names in the files; where a parameter is stored in pieces, of each piece.

    Raises:
        CheckpointError: two tensors that are one parameter; no safetensors, or two sets of them; a shard that is
            missing, damaged, or does not hold what the index says; a tensor of a dtype that weights are not in.
    """

    def __init__(
        self, directory: Path, renamed: Mapping[str, str | None] | None = None, each: Each | None = None
    ) -> None:
        self.directory = directory
        self._home = homes(directory, _names)
        self.stored: dict[str, str] = {}
        for stored in sorted(self._home):
            name = _renamed(stored, renamed or {})
            if name in self.stored:
                raise CheckpointError(
                    "two tensors of the checkpoint are one parameter of the model",
                    where=f"{directory}: {self.stored[name][:200]} and {stored[:200]}",
                    expected="one of them",
                    found="both",
                    hint="copy the checkpoint again, into an empty directory",
                )
            if name is not None:
                self.stored[name] = stored
        self._pieces = pieces_of(self.stored, each or {}, directory)
        self._in_pieces = {name for one in self._pieces.values() for parts in one.names for name in parts}
        parameters = set(self.stored.values())
        for path in dict.fromkeys(self._home.values()):
            with _open(path) as file:
                for name in file.keys():  # noqa: SIM118
                    if name in parameters:
                        self._check_dtype(name, file.get_slice(name).get_dtype())

    def _check_dtype(self, name: str, dtype: str) -> None:
        if dtype not in DTYPES:
            raise CheckpointError(
                "a parameter is stored in a dtype that no weight is read in",
                where=f"{self.directory}: {name[:200]}",
                expected=", ".join(DTYPES),
                found=dtype,
                hint=recognise.by_parameters(self.names)
                or "where the weights are quantised, give the checkpoint that they were quantised from",
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all parameters, sorted."""
        return tuple(sorted({*self._pieces, *self.stored} - self._in_pieces))

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of all that is stored, sorted: of a parameter in pieces, those of its pieces."""
        return tuple(sorted(self.stored))

    @property
    def in_pieces(self) -> frozenset[str]:
        """Those of `tensors` that are pieces of a parameter."""
        return frozenset(self._in_pieces)

    def read(self, name: str, rows: slice = slice(None)) -> Num[np.ndarray, "..."]:
        """One parameter, in the dtype in which it is stored (bfloat16 as ml_dtypes.bfloat16).

        Args:
            rows: of the first dimension, those that are read.

        Raises:
            CheckpointError: the checkpoint lacks it. There is no initial value to fall back on.
        """
        if name in self._pieces:
            return self._joined(name, self._pieces[name].of(rows))
        if name not in self.stored:
            raise missing_parameter(name, self)
        stored = self.stored[name]
        # Opened anew for each tensor: a mapping that stays open keeps every page that was ever read, so that a
        # pass over 15 GB of weights would end with 15 GB resident.
        with _open(self._home[stored]) as file:
            tensor: np.ndarray = file.get_tensor(stored) if rows == slice(None) else file.get_slice(stored)[rows]
        return tensor

    def _joined(self, name: str, experts: Sequence[Sequence[str]]) -> Num[np.ndarray, "expert output input"]:
        """A parameter of these experts' pieces, each of which is read into its place."""
        shapes = [[self.shape(part) for part in parts] for parts in experts]
        alike = {(len(shape), shape[1:]) for parts in shapes for shape in parts} | {
            sum(shape[0] for shape in parts) for parts in shapes
        }
        if len(alike) != 2:
            raise CheckpointError(
                "the matrices of experts differ in shape",
                where=f"{self.directory}: {name}",
                expected=shapes[0],
                found=next(parts for parts in shapes if parts != shapes[0]),
                hint="copy the checkpoint again, into an empty directory",
            )
        whole: np.ndarray | None = None
        for path in dict.fromkeys(self._home[self.stored[part]] for parts in experts for part in parts):
            with _open(path) as file:
                for expert, parts in enumerate(experts):
                    start = 0
                    for part, shape in zip(parts, shapes[expert], strict=True):
                        if self._home[self.stored[part]] == path:
                            tensor = file.get_tensor(self.stored[part])
                            if whole is None:
                                size = (len(experts), sum(one[0] for one in shapes[expert]), *shape[1:])
                                whole = np.empty(size, tensor.dtype)
                            whole[expert, start : start + shape[0]] = tensor
                        start += shape[0]
        assert whole is not None
        return whole

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one parameter, from the file's header.

        Raises:
            CheckpointError: the checkpoint lacks it.
        """
        if name in self._pieces:
            first, *_ = pieces = self._pieces[name].names
            shapes = [self.shape(part) for part in first]
            return (len(pieces), sum(shape[0] for shape in shapes), *shapes[0][1:])
        if name not in self.stored:
            raise missing_parameter(name, self)
        with _open(self._home[self.stored[name]]) as file:
            return tuple(file.get_slice(self.stored[name]).get_shape())

    def parts(self, name: str, tensor: Num[np.ndarray, "..."]) -> Iterator[tuple[str, Num[np.ndarray, "..."]]]:
        """One parameter as files have it: by their names, its pieces, or all of it."""
        if name not in self._pieces:
            yield self.stored[name], np.ascontiguousarray(tensor)
            return
        for own, parts in zip(tensor, self._pieces[name].names, strict=True):
            ends = np.cumsum([self.shape(part)[0] for part in parts])[:-1]
            for part, one in zip(parts, np.split(own, ends), strict=True):
                yield self.stored[part], np.ascontiguousarray(one)

    def entry(self, name: str) -> ParameterEntry:
        """Shape, dtype and sha256 (over the stored bytes) of one parameter."""
        return entry_of(self.read(name))

    def entries(self, names: Iterable[str]) -> Iterator[ParameterEntry]:
        """The entries of some parameters, two of which are read and hashed at a time."""
        with ThreadPoolExecutor(2) as pool:
            yield from pool.map(self.entry, names)

    def table(self) -> dict[str, ParameterEntry]:
        """The entries of all that is stored."""
        return dict(zip(self.tensors, self.entries(self.tensors), strict=True))


def open_checkpoint(directory: Path, config: Config, kind: type[Checkpoint] = Checkpoint) -> Checkpoint:
    """The checkpoint of a model with this config, by the names of its family.

    Args:
        kind: how it is read.

    Raises:
        CheckpointError: as `Checkpoint`, or the family is not known.
    """
    family = family_of(config)
    return kind(directory, {**family.stored, **_beyond(config, family)}, family.each)


def _beyond(config: Config, family: Family) -> dict[str, None]:
    """Layers that predict further tokens: they follow the model's own, which does not run them."""
    layers, count = (
        config.get("num_hidden_layers"),
        next((config[name] for name in FURTHER if config.get(name)), 0),
    )
    if not isinstance(layers, int) or not isinstance(count, int):
        return {}
    return {rf"^{re.escape(family.layers)}\.{layers + n}\.": None for n in range(min(count, MOST_FURTHER))}


def _renamed(name: str, renamed: Mapping[str, str | None]) -> str | None:
    for pattern, replacement in renamed.items():
        if replacement is None and re.search(pattern, name):
            return None
        name = re.sub(pattern, replacement or "", name)
    return name


def entry_of(tensor: Num[np.ndarray, "..."]) -> ParameterEntry:
    """Shape, dtype and sha256 (over its bytes) of a tensor."""
    tensor = np.ascontiguousarray(tensor)
    digest = hashlib.sha256(tensor.reshape(-1).view(np.uint8).data).hexdigest()
    return ParameterEntry(tuple(tensor.shape), tensor.dtype.name, digest)


def verify_parameters(checkpoint: Checkpoint, expected: Mapping[str, ParameterEntry]) -> None:
    """Refuse a checkpoint that is not, byte for byte, the one in the table.

    Raises:
        CheckpointError: a parameter is missing, extra, or has another shape, dtype or content.
    """
    stored = set(checkpoint.tensors)
    for name in expected:
        if name not in stored:
            raise missing_parameter(name, checkpoint)
    for name in checkpoint.tensors:
        if name not in expected:
            raise CheckpointError(
                "the checkpoint has a parameter that the golden does not know",
                where=f"{checkpoint.directory}: {name[:200]}",
                hint=_ANOTHER,
            )
    for (name, entry), found in zip(expected.items(), checkpoint.entries(expected), strict=True):
        for fact in ("shape", "dtype", "sha256"):
            if getattr(found, fact) != getattr(entry, fact):
                raise CheckpointError(
                    f"these are not the weights that the golden was recorded with: another {fact}",
                    where=f"{checkpoint.directory}: {name}",
                    expected=getattr(entry, fact),
                    found=getattr(found, fact),
                    hint=_ANOTHER,
                )


def missing_parameter(name: str, checkpoint: Checkpoint) -> CheckpointError:
    """The refusal of a checkpoint without a parameter, with what the names that it has tell."""
    return CheckpointError(
        "the checkpoint lacks a parameter",
        where=f"{checkpoint.directory}: {name[:200]}",
        expected="a tensor",
        found="nothing",
        hint=recognise.by_parameters(checkpoint.names)
        or "copy the checkpoint again; nothing is filled in for a parameter that is not there",
    )


_ANOTHER = "give the golden's own checkpoint to --weights; `goldens show GOLDEN` says which one it is"


def _names(path: Path) -> tuple[str, ...]:
    with _open(path) as file:
        return tuple(file.keys())


def _open(path: Path) -> safe_open:
    try:
        open_regular(path).close()  # safetensors would wait for a FIFO
        return safe_open(path, framework="np")
    except FileNotFoundError:
        raise CheckpointError(
            "the checkpoint has no such file", where=path, hint=recognise.without_weights(path.parent)
        ) from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the weights cannot be read: {error}", where=path, hint="copy the file again; it is damaged"
        ) from None
