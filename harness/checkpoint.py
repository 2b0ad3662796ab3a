"""A checkpoint directory in Hugging Face format, read tensor by tensor: neither torch nor jax.

One `model.safetensors`, or shards with `model.safetensors.index.json`. Reading a tensor touches only its own
bytes, and leaves none of them mapped: memory holds what is in use, however large the file is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401 - importing it teaches bfloat16 to numpy, and so to safetensors
import numpy as np
from jaxtyping import Num
from safetensors import SafetensorError, safe_open

from harness.errors import CheckpointError
from harness.golden import ParameterEntry

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class Checkpoint:
    """The tensors of a checkpoint directory.

    Raises:
        CheckpointError: no safetensors, a shard that is missing or damaged, a name in two shards.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._home: dict[str, Path] = {}
        for path in _files(directory):
            with _open(path) as file:
                names = tuple(file.keys())
            for name in names:
                if name in self._home:
                    raise CheckpointError(
                        "two shards hold one parameter",
                        where=name,
                        found=f"{self._home[name].name} and {path.name}",
                        hint="copy the checkpoint again, without files of another one",
                    )
                self._home[name] = path

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all parameters, sorted."""
        return tuple(sorted(self._home))

    def read(self, name: str) -> Num[np.ndarray, "..."]:
        """One parameter, in the dtype in which it is stored (bfloat16 as ml_dtypes.bfloat16).

        Raises:
            CheckpointError: the checkpoint lacks it. There is no initial value to fall back on.
        """
        if name not in self._home:
            raise missing_parameter(name, self.directory)
        # Opened anew for each tensor: a mapping that stays open keeps every page that was ever read, so that a
        # pass over 15 GB of weights would end with 15 GB resident.
        with _open(self._home[name]) as file:
            tensor: np.ndarray = file.get_tensor(name)
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one parameter, from the file's header.

        Raises:
            CheckpointError: the checkpoint lacks it.
        """
        if name not in self._home:
            raise missing_parameter(name, self.directory)
        with _open(self._home[name]) as file:
            return tuple(file.get_slice(name).get_shape())

    def entry(self, name: str) -> ParameterEntry:
        """Shape, dtype and sha256 (over the stored bytes) of one parameter."""
        tensor = np.ascontiguousarray(self.read(name))
        digest = hashlib.sha256(tensor.reshape(-1).view(np.uint8).data).hexdigest()
        return ParameterEntry(tuple(tensor.shape), tensor.dtype.name, digest)

    def table(self) -> dict[str, ParameterEntry]:
        """The entries of all parameters."""
        return {name: self.entry(name) for name in self.names}


def verify_parameters(checkpoint: Checkpoint, expected: Mapping[str, ParameterEntry]) -> None:
    """Refuse a checkpoint that is not, byte for byte, the one in the table.

    Raises:
        CheckpointError: a parameter is missing, extra, or has another shape, dtype or content.
    """
    for name in expected:
        if name not in checkpoint.names:
            raise missing_parameter(name, checkpoint.directory)
    for name in checkpoint.names:
        if name not in expected:
            raise CheckpointError(
                "the checkpoint has a parameter that the golden does not know",
                where=f"{checkpoint.directory}: {name}",
                hint=_ANOTHER,
            )
    for name, entry in expected.items():
        found = checkpoint.entry(name)
        for fact in ("shape", "dtype", "sha256"):
            if getattr(found, fact) != getattr(entry, fact):
                raise CheckpointError(
                    f"these are not the weights that the golden was recorded with: another {fact}",
                    where=f"{checkpoint.directory}: {name}",
                    expected=getattr(entry, fact),
                    found=getattr(found, fact),
                    hint=_ANOTHER,
                )


def missing_parameter(name: str, directory: Path) -> CheckpointError:
    return CheckpointError(
        "the checkpoint lacks a parameter",
        where=f"{directory}: {name}",
        expected="a tensor",
        found="nothing",
        hint="copy the checkpoint again; nothing is filled in for a parameter that is not there",
    )


_ANOTHER = "give the golden's own checkpoint to --weights; `goldens show GOLDEN` says which one it is"


def _files(directory: Path) -> list[Path]:
    index = directory / INDEX
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(
                f"the index of the shards cannot be read: {error!r}", where=index, hint="copy it again"
            ) from None
        return [directory / shard for shard in shards]
    return [directory / SINGLE]


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="np")
    except FileNotFoundError:
        raise CheckpointError(
            "the checkpoint has no such file",
            where=path,
            hint="give a directory in Hugging Face format: config.json, *.safetensors, tokenizer.json",
        ) from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the weights cannot be read: {error}", where=path, hint="copy the file again; it is damaged"
        ) from None
