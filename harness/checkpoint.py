"""A checkpoint directory in Hugging Face format, by the parameters of its model: neither torch nor jax.

Files may have a parameter under another name, in pieces, or quantised (`harness.packed`).
It is joined and widened as it is read, and only as much of it as is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Num

from harness.architecture import Config, family_of
from harness.errors import CheckpointError
from harness.families.neutral import Quantisation, quantisation_of
from harness.golden import ParameterEntry
from harness.stored import INTO_AN_EMPTY_ONE, NOT_FILLED_IN, StoredTensors, entry_of, unfit

if TYPE_CHECKING:
    from harness.packed import Each, Pieces, Quantised

# What weights are read in, as safetensors writes it, where they are not quantised.
DTYPES = ("F64", "F32", "F16", "BF16")


class Checkpoint:
    """The parameters of a checkpoint directory, by the names that the modules of transformers have for them.

    Args:
        renamed: patterns of names in files, and what stands for a match in the name of a module's parameter; None
            for a tensor that is no parameter of the model, which is passed over.
        each: of which parameters files may have the pieces (`Family.each`).
        quantisation: how the config says that weights are quantised.

    Attributes:
        stored: by these names, the names in the files: of each piece, where a parameter is stored in pieces, and
            of values and scales, where it is quantised.
        quantised: the parameters, or pieces of some, that are.

    Raises:
        CheckpointError: two tensors that are one parameter; no safetensors, or two sets of them; a shard that is
            missing, damaged, or does not hold what the index says; a tensor of a dtype that weights are not in;
            quantised weights that are not as the config says.
    """

    def __init__(
        self,
        directory: Path,
        renamed: Mapping[str, str | None] | None = None,
        each: Each | None = None,
        quantisation: Quantisation | None = None,
    ) -> None:
        self.directory = directory
        self._tensors = StoredTensors(directory)
        self.stored: dict[str, str] = {}
        for stored in self._tensors.names:
            name = _renamed(stored, renamed or {})
            if name in self.stored:
                raise _twice(directory, self.stored[name], stored)
            if name is not None:
                self.stored[name] = stored
        self.quantised: dict[str, Quantised] = {}
        if quantisation is not None:
            from harness.packed import quantised_parameters

            dtypes = {name: self._tensors.dtypes[stored] for name, stored in self.stored.items()}
            shapes = {name: self._tensors.shapes[stored] for name, stored in self.stored.items()}
            self.quantised = quantised_parameters(quantisation, dtypes, shapes, directory)
        widened = {name for packed in self.quantised.values() for name in (packed.values, packed.scales)}
        for name, packed in self.quantised.items():
            if name in self.stored and name not in widened:
                raise _twice(directory, self.stored[name], self.stored[packed.values])
        self._values = {*self.stored, *self.quantised} - (widened - self.quantised.keys())
        self._pieces: dict[str, Pieces] = {}
        if each:
            from harness.packed import pieces_of

            self._pieces = pieces_of(sorted(self._values), each, directory)
        self._in_pieces = {name for experts in self._pieces.values() for parts in experts for name in parts}
        for name in self.tensors:
            if name not in widened:
                self._check_dtype(self.stored[name])

    def _check_dtype(self, name: str) -> None:
        if self._tensors.dtypes[name] not in DTYPES:
            from harness.recognise import by_parameters

            problem = "a parameter is stored in a dtype that no weight is read in"
            where, found = f"{self.directory}: {name[:200]}", self._tensors.dtypes[name]
            hint = "where the weights are quantised, give the checkpoint that they were quantised from"
            raise unfit(problem, where, ", ".join(DTYPES), found, by_parameters(self.names) or hint)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all parameters, sorted."""
        return tuple(sorted({*self._pieces, *self._values} - self._in_pieces))

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of all that is stored, sorted: of a parameter in pieces those of its pieces, and of one that
        is quantised those of values and scales."""
        return tuple(sorted(self.stored))

    @property
    def published(self) -> dict[str, str]:
        """By the names of parameters, and of pieces: what files call them, or would if none were quantised."""
        return {name: self.stored.get(name) or self._unquantised(name) for name in sorted(self._values)}

    def _unquantised(self, name: str) -> str:
        quantised = self.quantised[name]
        return self.stored[quantised.values].removesuffix(quantised.values.removeprefix(name))

    def read(self, name: str, rows: slice = slice(None)) -> Num[np.ndarray, "..."]:
        """One parameter, in the dtype in which it is stored; bfloat16 (of ml_dtypes) where it is quantised.

        Args:
            rows: of the first dimension, those that are read; they follow one another.

        Raises:
            CheckpointError: the checkpoint lacks it. There is no initial value to fall back on.
        """
        if name in self._pieces:
            return self._joined(name, self._pieces[name][rows])
        if name in self.quantised:
            return self.quantised[name].read(self.tensor, rows)
        return self.tensor(name, rows)

    def tensor(self, name: str, rows: slice = slice(None)) -> Num[np.ndarray, "..."]:
        """One of `tensors`, as it is stored.

        Raises:
            CheckpointError: the checkpoint lacks it.
        """
        if name not in self.stored:
            raise missing_parameter(name, self)
        return self._tensors.read(self.stored[name], rows)

    def parts(self, name: str) -> Iterator[tuple[int, Num[np.ndarray, "..."]]]:
        """One of `tensors`, as it is stored, by consecutive rows, each with its first."""
        return self._tensors.parts(self.stored[name])

    def _joined(self, name: str, experts: Sequence[Sequence[str]]) -> Num[np.ndarray, "expert output input"]:
        """A parameter of these experts' pieces, each of which is read into its place."""
        shapes = [[self.shape(part) for part in parts] for parts in experts]
        alike = {(len(shape), shape[1:]) for parts in shapes for shape in parts} | {
            sum(shape[0] for shape in parts) for parts in shapes
        }
        if len(alike) != 2:
            problem, second = "the matrices of experts differ in shape", next(x for x in shapes if x != shapes[0])
            raise unfit(problem, f"{self.directory}: {name}", shapes[0], second, INTO_AN_EMPTY_ONE)
        whole: np.ndarray | None = None
        for expert, parts in enumerate(experts):
            start = 0
            for part, shape in zip(parts, shapes[expert], strict=True):
                piece = self.read(part)
                if whole is None:
                    size = (len(experts), sum(part_shape[0] for part_shape in shapes[expert]), *shape[1:])
                    whole = np.empty(size, piece.dtype)
                whole[expert, start : start + shape[0]] = piece
                start += shape[0]
        assert whole is not None
        return whole

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one parameter, from the file's header.

        Raises:
            CheckpointError: the checkpoint lacks it.
        """
        if name in self._pieces:
            first, *_ = pieces = self._pieces[name]
            shapes = [self.shape(part) for part in first]
            return (len(pieces), sum(shape[0] for shape in shapes), *shapes[0][1:])
        if name in self.quantised:
            return self.quantised[name].shape
        if name not in self.stored:
            raise missing_parameter(name, self)
        return self._tensors.shapes[self.stored[name]]

    def as_stored(self, name: str, tensor: Num[np.ndarray, "..."]) -> Iterator[tuple[str, Num[np.ndarray, "..."]]]:
        """One parameter as files have it: by their names, its pieces, or all of it."""
        if name not in self._pieces:
            yield self.stored[name], np.ascontiguousarray(tensor)
            return
        from harness.packed import cut

        for part, piece in cut(tensor, self._pieces[name]):
            yield self.stored[part], piece

    def entry(self, name: str) -> ParameterEntry:
        """Shape, dtype and sha256 (over its bytes) of one of `tensors`."""
        return entry_of(part for _, part in self.parts(name))

    def entries(self, names: Iterable[str]) -> Iterator[ParameterEntry]:
        """The entries of some tensors, two of which are read and hashed at a time."""
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
    renamed = {**family.stored, **family.beyond(config)}
    return kind(directory, renamed, family.each, quantisation_of(config, family))


def _twice(directory: Path, first: str, second: str) -> CheckpointError:
    problem = "two tensors of the checkpoint are one parameter of the model"
    where = f"{directory}: {first[:200]} and {second[:200]}"
    return unfit(problem, where, "one of them", "both", INTO_AN_EMPTY_ONE)


def _renamed(name: str, renamed: Mapping[str, str | None]) -> str | None:
    for pattern, replacement in renamed.items():
        if replacement is None and re.search(pattern, name):
            return None
        name = re.sub(pattern, replacement or "", name)
    return name


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
            problem = "the checkpoint has a parameter that the golden does not know"
            raise unfit(problem, f"{checkpoint.directory}: {name[:200]}", None, None, _ANOTHER)
    for (name, entry), actual in zip(expected.items(), checkpoint.entries(expected), strict=True):
        for fact in ("shape", "dtype", "sha256"):
            own, recorded = getattr(actual, fact), getattr(entry, fact)
            if own != recorded:
                problem = f"these are not the weights that the golden was recorded with: another {fact}"
                raise unfit(problem, f"{checkpoint.directory}: {name}", recorded, own, _ANOTHER)


def missing_parameter(name: str, checkpoint: Checkpoint) -> CheckpointError:
    """The refusal of a checkpoint without a parameter, with what the names that it has tell."""
    from harness.recognise import by_parameters

    where, hint = f"{checkpoint.directory}: {name[:200]}", by_parameters(checkpoint.names)
    return unfit("the checkpoint lacks a parameter", where, "a tensor", "nothing", hint or NOT_FILLED_IN)


_ANOTHER = "give the golden's own checkpoint to --weights; `goldens show GOLDEN` says which one it is"
