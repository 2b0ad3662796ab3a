"""The checkpoint's parameters must be the model's: none missing, none extra, each of the right shape."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Num

from harness import recognise
from harness.checkpoint import Checkpoint, missing_parameter
from harness.families import Family
from harness.families.options import Architecture
from harness.golden import ModelEntry, ParameterEntry
from harness.stored import ONE_CHECKPOINT, entry_of, unfit

EXPONENT = np.uint16(0x7F80)  # of a bfloat16: all ones in what is not finite
PART = 2**22  # of a parameter that is looked at at once
Shapes = Mapping[str, tuple[int, ...]]
Tied = Mapping[str, str]


def check_layers(checkpoint: Checkpoint, family: Family, arch: Architecture) -> None:
    """Refuse a checkpoint that lacks a layer of its config, before a model of that many layers is built.

    Raises:
        CheckpointError: naming a parameter of the first layer that is not there.
    """
    layer = re.compile(rf"{re.escape(family.layers)}\.(\d{{1,9}})\.")
    stored = {int(match[1]) for match in map(layer.match, checkpoint.names) if match}
    for index in range(arch.layers):
        if index not in stored:
            first = next(iter(family.layer.values()))
            raise missing_parameter(f"{family.layers}.{index}.{first}.weight", checkpoint)


def check_parameters(checkpoint: Checkpoint, shapes: Shapes, tied: Tied) -> None:
    """Refuse a checkpoint whose parameters are not exactly those that transformers builds from its config.

    Args:
        shapes: name -> shape, of the model.
        tied: the name of the head, if it is the embedding, and that of the embedding. It need not be stored.

    Raises:
        CheckpointError: naming the first parameter that is missing or extra.
    """
    stored = set(checkpoint.names)
    for name in shapes:
        if name not in stored and name not in tied:
            raise missing_parameter(name, checkpoint)
    for name in checkpoint.names:
        if name not in shapes:
            problem = "the checkpoint has a parameter that its config has no place for"
            where, hint = f"{checkpoint.directory}: {name[:200]}", recognise.by_parameters(checkpoint.names)
            raise unfit(problem, where, "only parameters of the model", name[:200], hint or ONE_CHECKPOINT)


def parameter_table(checkpoint: Checkpoint, shapes: Shapes, tied: Tied) -> dict[str, ParameterEntry]:
    """Shape, dtype and sha256 of all that is stored, two tensors of which are read at a time, in parts.

    Raises:
        CheckpointError: another shape than the config implies, a value that is not finite at every precision, or a
            tied head that is not the embedding.
    """

    for name in checkpoint.names:
        if (stored := checkpoint.shape(name)) != shapes[name]:
            problem = "a parameter does not have the shape that the config implies"
            raise unfit(problem, f"{checkpoint.directory}: {name}", shapes[name], stored)

    widened = {tensor: name for name, raw in checkpoint.quantised.items() for tensor in (raw.values, raw.scales)}

    def looked_at(name: str) -> Iterator[Num[np.ndarray, "..."]]:
        where, suspect = f"{checkpoint.directory}: {widened.get(name, name)}", False
        for start, part in checkpoint.parts(name):
            if name not in widened:
                _refuse_not_finite(part, where, start)
            else:
                suspect |= checkpoint.quantised[widened[name]].suspect(name, part)
            yield part
        if suspect:  # a value may be none, or one too large; one of zero beside a large scale is neither
            _refuse_not_finite(checkpoint.read(widened[name]), where)

    def entry(name: str) -> ParameterEntry:
        return entry_of(looked_at(name))

    with ThreadPoolExecutor(2) as pool:
        table = dict(zip(checkpoint.tensors, pool.map(entry, checkpoint.tensors), strict=True))
    for head, embedding in tied.items():
        if head in table and table[head] != table[embedding]:
            problem = "the config ties the head to the embedding, but the checkpoint holds another head"
            expected = f"the content of {embedding}, or no such parameter"
            hint = "set tie_word_embeddings to what the checkpoint was trained with"
            raise unfit(problem, f"{checkpoint.directory}: {head}", expected, "other values", hint)
    return table


def _refuse_not_finite(tensor: Num[np.ndarray, "..."], where: str, first: int = 0) -> None:
    """bfloat16 is the narrowest precision that is recorded: what is finite there is finite everywhere.

    Args:
        first: the row that the first one is.
    """
    flat = tensor.reshape(-1)
    for start in range(0, flat.size, PART):
        with np.errstate(over="ignore"):
            narrow = flat[start : start + PART].astype(ml_dtypes.bfloat16, copy=False)
        # By its bits: numpy's isfinite takes twenty times as long for a dtype that is not its own.
        finite = (narrow.view(np.uint16) & EXPONENT) != EXPONENT
        if not finite.all():
            at = start + int(finite.argmin())
            index = [int(i) for i in np.unravel_index(at, tensor.shape)]
            index[:1] = [row + first for row in index[:1]]
            problem = "a parameter has a value that is not finite, or beyond what bfloat16 can hold"
            hint = "copy the checkpoint again; where it was saved like this, no truth can be recorded from it"
            raise unfit(problem, f"{where}, at {index}", "finite values", float(flat[at]), hint)


def model_entry(
    model_id: str, config: Mapping[str, Any], checkpoint: Checkpoint, table: Mapping[str, ParameterEntry]
) -> ModelEntry:
    """Phase 1 facts: config, what is stored, how many parameters that is, and which biases exist."""
    return ModelEntry(
        id=model_id,
        config=dict(config),
        parameters=dict(table),
        parameter_count=sum(math.prod(checkpoint.shape(name)) for name in checkpoint.names),
        biases=tuple(name for name in table if name.endswith(".bias")),
    )
