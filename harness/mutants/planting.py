"""How a mutant gets into a port.

Operation and numerics mutants live in the built-in decoder. Weight and config mutants work on any port: through
a changed copy of the checkpoint and a changed config, handed to the port's own `load` after the preflight has
seen the right ones.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float
from safetensors.numpy import save_file

from harness.architecture import Architecture, Config, architecture_of
from harness.checkpoint import Checkpoint, open_checkpoint
from harness.errors import UsageError
from harness.families.neutral import FIELD
from harness.mutants.eager import Eager
from harness.mutants.mutant import (
    CallChange,
    Change,
    ConfigChange,
    Mutant,
    OperationChange,
    OptionChange,
    Read,
    WeightChange,
    planted,
    with_options,
)
from harness.run.arithmetic import one_by_one_of
from harness.run.cache import Past
from harness.run.decoder import Decoder
from harness.run.loading import Loader, load_port
from harness.run.operations import Hidden, Operations
from harness.run.port import Call, Port
from harness.run.tapping import TapFunction
from harness.run.weights import Weights, ZeroWeights
from harness.stored import INDEX, SINGLE


class PartlyChanged(Decoder):
    """The built-in decoder with other operations in some of its layers.

    Args:
        changed: the operations of those layers.
    """

    def __init__(
        self, arch: Architecture, weights: Weights, operations: Operations, changed: Mapping[int, Operations]
    ) -> None:
        super().__init__(arch, weights, operations)
        self._operations = changed
        self._changed = {index: Decoder(arch, weights, own) for index, own in changed.items()}

    def without_weights(self) -> Self:
        weights = ZeroWeights(self.weights.checkpoint, self.weights.dtype)
        return type(self)(self.arch, weights, self.ops, self._operations)

    def layer(
        self, call: Call, index: int, state: nnx.State, x: Hidden, past: Past | None
    ) -> tuple[Hidden, Past | None]:
        if index in self._changed:
            return self._changed[index].layer(call, index, state, x, past)
        return super().layer(call, index, state, x, past)


class Misled:
    """A port that is called wrongly, with other positions.

    Args:
        port: any port with a cache.
    """

    def __init__(self, port: Port, change: CallChange) -> None:
        self._port, self._change, self._filled, self._prefill = port, change, 0, 0

    def init_cache(self, batch: int, length: int, dtype: jnp.dtype) -> Any:
        self._filled = 0
        return self._port.init_cache(batch, length, dtype)  # type: ignore[attr-defined]

    def forward(
        self, input_ids: Array, positions: Array, mask: Array, cache: Any, tap: TapFunction
    ) -> tuple[Array, Any]:
        return self._port.forward(input_ids, self._misled(positions), mask, cache, tap)

    def forward_sequences(self, sequences: Sequence[Sequence[Call]]) -> list[list[tuple[Array, Any]]]:
        """Many inputs, in several calls each; call by call where the port cannot do better."""
        misled = []
        for calls in sequences:
            self._filled = 0
            misled.append([replace(call, positions=self._misled(call.positions)) for call in calls])
        if not hasattr(self._port, "forward_sequences"):
            return [self._step_by_step(calls) for calls in misled]
        outputs: list[list[tuple[Array, Any]]] = self._port.forward_sequences(misled)
        return outputs

    def _step_by_step(self, calls: Sequence[Call]) -> list[tuple[Array, Any]]:
        cache, outputs = calls[0].cache, []
        for call in calls:
            logits, cache = self._port.forward(call.input_ids, call.positions, call.mask, cache, call.tap)
            outputs.append((logits, cache))
        return outputs

    def _misled(self, positions: Array) -> Array:
        """The positions of a call, given wrongly, and the tokens counted."""
        if self._filled == 0:
            self._prefill = positions.shape[1]
        changed = self._change.positions(positions, self._filled, self._prefill)
        self._filled += positions.shape[1]
        return changed


class ChangedWeights(Weights):
    """A checkpoint's parameters, changed as mutants say before they are converted."""

    def __init__(
        self, checkpoint: Checkpoint, dtype: jnp.dtype, changes: Sequence[WeightChange], arch: Architecture
    ) -> None:
        super().__init__(checkpoint, dtype)
        self._read = changed_reading(checkpoint, changes, arch)

    def read(
        self, name: str, rows: slice | np.ndarray = slice(None), dtype: jnp.dtype | None = None
    ) -> Float[np.ndarray, "..."]:
        return self._read(name)[rows].astype(dtype or self.dtype)

    def differs(self, name: str) -> bool:
        loaded, stored = self._read(name), self.checkpoint.read(name)
        return loaded is not stored and loaded.__array_interface__ != stored.__array_interface__


def load_mutants(
    mutants: Sequence[Mutant], checkpoint: Path, config: Config, dtype: jnp.dtype
) -> Decoder | Misled:
    """The built-in decoder with mutants in it, or around it; of two that replace one operation the later counts.

    Raises:
        CheckpointError: as `Decoder.load`, of a checkpoint or of a changed config that it does not compute.
    """
    opened = open_checkpoint(checkpoint, config)
    everywhere, by_layer = placed(mutants, architecture_of(config).layers)
    port: Decoder | Misled = decoder_with(everywhere, opened, config, dtype, by_layer)
    for change in everywhere:
        port = Misled(port, change) if isinstance(change, CallChange) else port
    return port


def placed(mutants: Sequence[Mutant], layers: int) -> tuple[list[Change], dict[int, list[Change]]]:
    """The changes of mutants: those that are made everywhere, and those of operations in some layers, by layer."""
    everywhere: list[Change] = []
    by_layer: dict[int, list[Change]] = {}
    for mutant in mutants:
        if mutant.layers is None or not isinstance(mutant.change, OperationChange):
            everywhere.append(mutant.change)
            continue
        for index in mutant.in_layers(layers):
            by_layer.setdefault(index, []).append(mutant.change)
    return everywhere, by_layer


def decoder_with(
    changes: Sequence[Change],
    checkpoint: Checkpoint,
    config: Config,
    dtype: jnp.dtype,
    by_layer: Mapping[int, Sequence[Change]] = MappingProxyType({}),
    operations_of: Callable[[Architecture], Operations] = one_by_one_of,
    wrapped: Callable[[Operations], Operations] = lambda operations: operations,
    right: Architecture | None = None,
) -> Decoder:
    """The built-in decoder with these changes; those of how it is called are the caller's.

    Args:
        by_layer: changes of operations in some layers alone.
        operations_of: the right ones of an architecture.
        wrapped: what is done to operations once the changes are made.
        right: what the config describes, where that is known already.

    Raises:
        CheckpointError: a changed config or parameter that the decoder does not compute.
    """
    right, given = right or architecture_of(config), config
    for change in changes:
        config = config_after(change, config)
    arch = with_options(right if config is given else architecture_of(config), changes)
    of_weights = [change for change in changes if isinstance(change, WeightChange)]
    weights = ChangedWeights(checkpoint, dtype, of_weights, right) if of_weights else Weights(checkpoint, dtype)
    operations = planted(operations_of(arch), changes)
    changed = {index: wrapped(planted(operations, own)) for index, own in by_layer.items()}
    if changed:
        return PartlyChanged(arch, weights, wrapped(operations), changed)
    return Decoder(arch, weights, wrapped(operations))


def loader(mutant: Mutant, spec: str | None = None, folder: Path | None = None) -> Loader:
    """What loads a port with the mutant in it, for `harness.run.check.Checker`.

    Args:
        mutant: weight or config, unless the port is the built-in one.
        spec: the port, `package.module:Name`; None is the built-in decoder, its operations run one by one.
        folder: an empty folder for the changed checkpoint that another port reads.

    Raises:
        UsageError: an operation mutant, for a port whose operations cannot be replaced.
    """
    if spec is None:
        return lambda checkpoint, config, dtype: Eager(load_mutants([mutant], checkpoint, config, dtype))
    if isinstance(mutant.change, OperationChange | OptionChange) or folder is None:
        problem = "an operation mutant lives in the built-in decoder"
        expected = "a weight or config mutant, and a folder for the changed checkpoint"
        hint = "plant it in the built-in decoder, or choose a weight or config mutant"
        raise UsageError(problem, f"{mutant.id} in {spec}", expected, f"a mutant of kind {mutant.kind}", hint=hint)

    def load(checkpoint: Path, config: Config, dtype: jnp.dtype) -> Port:
        if isinstance(mutant.change, CallChange):
            return Misled(load_port(spec, checkpoint, config, dtype), mutant.change)
        changed = write_changed_checkpoint(mutant, checkpoint, config, folder)
        return load_port(spec, changed, written_config(mutant, config), dtype)

    return load


def changed_config(mutant: Mutant, config: Config) -> Config:
    """The config as the mutant reads it."""
    return config_after(mutant.change, config)


def config_after(change: Change, config: Config) -> Config:
    """The config as a change has it read."""
    return {**config, **change.fields(config)} if isinstance(change, ConfigChange) else config


def written_config(mutant: Mutant, config: Config) -> Config:
    """The config beside a changed checkpoint, whose weights are widened where they are other ones."""
    changed = changed_config(mutant, config)
    widened = isinstance(mutant.change, WeightChange)
    return {field: value for field, value in changed.items() if not (widened and field == FIELD)}


def changed_reading(checkpoint: Checkpoint, changes: Sequence[WeightChange], arch: Architecture) -> Read:
    """A reading of parameters, in the dtype in which they are stored, as the mutants load them."""
    read: Read = checkpoint.read
    for change in changes:
        read = partial(_changed, change, read, arch)
    return read


def _changed(change: WeightChange, read: Read, arch: Architecture, name: str) -> np.ndarray:
    return change.load(name, read, arch)


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
    (folder / "config.json").write_text(json.dumps(written_config(mutant, config)), encoding="utf-8")
    if weights:
        opened = open_checkpoint(checkpoint, config)
        read = changed_reading(opened, [weights], architecture_of(config))
        tensors = {stored: part for name in opened.names for stored, part in opened.as_stored(name, read(name))}
        save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    return folder


def _holds_weights(file: Path) -> bool:
    return file.suffix == ".safetensors" or file.name == INDEX
