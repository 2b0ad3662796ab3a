"""How a mutant gets into a port.

Operation and numerics mutants live in the built-in decoder. Weight and config mutants work on any port: through
a changed copy of the checkpoint and a changed config, handed to the port's own `load` after the preflight has
seen the right ones.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Self

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float
from safetensors.numpy import save_file

from harness.architecture import Architecture, Config, architecture_of
from harness.checkpoint import INDEX, SINGLE, Checkpoint
from harness.errors import UsageError
from harness.mutants.mutant import ConfigChange, Mutant, OperationChange, WeightChange
from harness.run.checker import Loader
from harness.run.decoder import Decoder
from harness.run.operations import OPERATIONS, Hidden, Operations
from harness.run.port import Call, Port, load_port
from harness.run.weights import Weights, ZeroWeights


class PartlyChanged(Decoder):
    """The built-in decoder with other operations in some of its layers."""

    def __init__(self, arch: Architecture, weights: Weights, changed: Operations, layers: tuple[int, ...]) -> None:
        super().__init__(arch, weights)
        self._changed, self._layers = Decoder(arch, weights, changed), layers

    def without_weights(self) -> Self:
        weights = ZeroWeights(self.weights.directory, self.weights.dtype)
        return type(self)(self.arch, weights, self._changed.ops, self._layers)

    def layer(self, call: Call, index: int, state: nnx.State, x: Hidden) -> Hidden:
        if index in self._layers:
            return self._changed.layer(call, index, state, x)
        return super().layer(call, index, state, x)


class ChangedWeights(Weights):
    """A checkpoint's parameters, changed as a mutant says before they are converted."""

    def __init__(self, directory: Path, dtype: jnp.dtype, change: WeightChange, arch: Architecture) -> None:
        super().__init__(directory, dtype)
        self._change, self._arch = change, arch

    def read(self, name: str) -> Float[Array, "..."]:
        tensor = changed_tensor(self._checkpoint, name, self._change, self._arch)
        return jnp.asarray(tensor.astype(self.dtype))


def load_mutant(mutant: Mutant, checkpoint: Path, config: Config, dtype: jnp.dtype) -> Decoder:
    """The built-in decoder with a mutant in it.

    Raises:
        CheckpointError: as `Decoder.load`, of a checkpoint or of a changed config that it does not compute.
    """
    change, right = mutant.change, architecture_of(config)
    decoder = Decoder.load(checkpoint, changed_config(mutant, config), dtype)
    match change:
        case OperationChange() if mutant.layers is None:
            return Decoder(right, decoder.weights, replace(OPERATIONS, **change.replaced))
        case OperationChange():
            changed = replace(OPERATIONS, **change.replaced)
            return PartlyChanged(right, decoder.weights, changed, mutant.in_layers(right.layers))
        case WeightChange():
            return Decoder(right, ChangedWeights(checkpoint, dtype, change, right))
        case ConfigChange():
            return decoder


def loader(mutant: Mutant, spec: str | None = None, folder: Path | None = None) -> Loader:
    """What loads a port with the mutant in it, for `harness.run.checker.Checker`.

    Args:
        mutant: weight or config, unless the port is the built-in one.
        spec: the port, `package.module:Name`; None is the built-in decoder.
        folder: an empty folder for the changed checkpoint that another port reads.

    Raises:
        UsageError: an operation mutant, for a port whose operations cannot be replaced.
    """
    if spec is None:
        return lambda checkpoint, config, dtype: load_mutant(mutant, checkpoint, config, dtype)
    if isinstance(mutant.change, OperationChange) or folder is None:
        raise UsageError(
            "an operation mutant lives in the built-in decoder",
            where=f"{mutant.id} in {spec}",
            expected="a weight or config mutant, and a folder for the changed checkpoint",
            found=f"a mutant of kind {mutant.kind}",
            hint="plant it in the built-in decoder, or choose a weight or config mutant",
        )

    def load(checkpoint: Path, config: Config, dtype: jnp.dtype) -> Port:
        changed = write_changed_checkpoint(mutant, checkpoint, config, folder)
        return load_port(spec, changed, changed_config(mutant, config), dtype)

    return load


def changed_config(mutant: Mutant, config: Config) -> Config:
    """The config as the mutant reads it."""
    return {**config, **mutant.change.fields(config)} if isinstance(mutant.change, ConfigChange) else config


def changed_tensor(checkpoint: Checkpoint, name: str, change: WeightChange, arch: Architecture) -> np.ndarray:
    """One parameter as the mutant loads it, in the dtype in which it is stored.

    Raises:
        CheckpointError: the checkpoint lacks the parameter that the mutant reads.
    """
    return change.load(name, checkpoint.read, arch)


def write_changed_checkpoint(mutant: Mutant, checkpoint: Path, config: Config, folder: Path) -> Path:
    """A copy of a checkpoint directory, in `folder`, with the mutant's config and parameters.

    Returns:
        The folder. What the mutant does not change is linked, not copied.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    weights = mutant.change if isinstance(mutant.change, WeightChange) else None
    for file in checkpoint.iterdir():
        if file.name != "config.json" and not (weights and _holds_weights(file)):
            (folder / file.name).symlink_to(file.resolve())
    (folder / "config.json").write_text(json.dumps(changed_config(mutant, config)), encoding="utf-8")
    if weights:
        opened, arch = Checkpoint(checkpoint), architecture_of(config)
        tensors = {name: changed_tensor(opened, name, weights, arch) for name in opened.names}
        contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        save_file(contiguous, folder / SINGLE, metadata={"format": "pt"})
    return folder


def _holds_weights(file: Path) -> bool:
    return file.suffix == ".safetensors" or file.name == INDEX
