"""The checkpoint's parameters must be the model's: none missing, none extra, each of the right shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from harness.checkpoint import Checkpoint, missing_parameter
from harness.errors import CheckpointError
from harness.golden import ModelEntry, ParameterEntry

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Shapes = Mapping[str, tuple[int, ...]]


def check_parameters(checkpoint: Checkpoint, shapes: Shapes, tied_head: bool) -> None:
    """Refuse a checkpoint whose parameters are not exactly those that transformers builds from its config.

    Args:
        shapes: name -> shape, of the model. With a tied head the checkpoint need not have `lm_head.weight`.

    Raises:
        CheckpointError: naming the first parameter that is missing or extra.
    """
    stored = set(checkpoint.names)
    for name in shapes:
        if name not in stored and not (tied_head and name == HEAD):
            raise missing_parameter(name, checkpoint.directory)
    for name in checkpoint.names:
        if name not in shapes:
            raise CheckpointError(
                "the checkpoint has a parameter that its config has no place for",
                where=f"{checkpoint.directory}: {name}",
                expected="only parameters of the model",
                found=name,
                hint="config.json and the weights must come from one checkpoint",
            )


def parameter_table(
    checkpoint: Checkpoint, shapes: Shapes, tied_head: bool, progress: Callable[[str], None] = lambda _: None
) -> dict[str, ParameterEntry]:
    """Shape, dtype and sha256 of every stored parameter.

    Raises:
        CheckpointError: another shape than the config implies, or a tied head that is not the embedding.
    """
    table = {}
    for name in checkpoint.names:
        progress(name)
        table[name] = entry = checkpoint.entry(name)
        if entry.shape != shapes[name]:
            raise CheckpointError(
                "a parameter does not have the shape that the config implies",
                where=f"{checkpoint.directory}: {name}",
                expected=shapes[name],
                found=entry.shape,
                hint="config.json and the weights must come from one checkpoint",
            )
    if tied_head and HEAD in table and table[HEAD] != table[EMBEDDING]:
        raise CheckpointError(
            "the config ties the head to the embedding, but the checkpoint holds another head",
            where=f"{checkpoint.directory}: {HEAD}",
            expected=f"the content of {EMBEDDING}, or no such parameter",
            found="other values",
            hint="set tie_word_embeddings to what the checkpoint was trained with",
        )
    return table


def model_entry(model_id: str, config: Mapping[str, Any], table: Mapping[str, ParameterEntry]) -> ModelEntry:
    """Phase 1 facts: config, parameters, their count, and which biases exist."""
    return ModelEntry(
        id=model_id,
        config=dict(config),
        parameters=dict(table),
        parameter_count=sum(math.prod(entry.shape) for entry in table.values()),
        biases=tuple(name for name in table if name.endswith(".bias")),
    )
