"""Bugs of the sliding window, on models that have one: its width, its layers, and what a decode step makes of it.

Width and layers are read from the config, so that those bugs can be planted in any port.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from harness.architecture import Config, architecture_of
from harness.errors import CheckpointError
from harness.families.windows import FULL, SLIDING
from harness.mutants.cache import only_in_steps
from harness.mutants.introduced import kinds
from harness.mutants.masks import WINDOWS, Mask, Slots, Window
from harness.mutants.mutant import ConfigChange, Mutant, OperationChange, github
from harness.mutants.needs import FILLS_WINDOW, MIXED, OVER_WINDOW, WINDOWED, Need, steps
from harness.run.operations import NO_WINDOW, allowed

RIGHT_WIDTH = "query - window < key <= query, in the layers that have a window"
RIGHT_LAYERS = "a window in the layers from max_window_layers on"


def slides(config: Config) -> list[bool]:
    """By layer, whether it has a window."""
    return [window is not None for window in architecture_of(config).windows]


def by_type(config: Config) -> bool:
    """Whether the types of layers, and they alone, say which have a window, and nothing else."""
    arch = architecture_of(config)
    try:
        without = architecture_of({**config, "layer_types": [FULL] * arch.layers, "max_window_layers": None})
    except CheckpointError:
        return False
    return without.ropes == arch.ropes


BY_TYPE = Need(
    "architecture",
    lambda model: by_type(model.config),
    "the types of layers say more than the window here, or nothing: see windows_ignored, _everywhere, _inverted",
)


def in_layers(choose: Callable[[Sequence[bool]], Sequence[bool]]) -> ConfigChange:
    """The window in other layers; nothing where no layer has one."""

    def fields(config: Config) -> Mapping[str, Any]:
        windowed = slides(config)
        if not any(windowed):
            return {}
        types = [SLIDING if sliding else FULL for sliding in choose(windowed)]
        return {"layer_types": types, "max_window_layers": None}

    return ConfigChange(fields)


def wider(by: int) -> ConfigChange:
    """A window that is wider by some keys."""
    return ConfigChange(
        lambda config: {"sliding_window": config["sliding_window"] + by} if any(slides(config)) else {}
    )


def _in_steps(wrong: Callable[[Mask, Slots, Window], Array]) -> OperationChange:
    """A mask that is wrong where one token comes."""
    return OperationChange({"allowed": only_in_steps(wrong, allowed, lambda mask, slots, window: len(slots))})


def _starts_late(windowed: Sequence[bool]) -> list[bool]:
    first = windowed.index(True)
    return [sliding and layer != first for layer, sliding in enumerate(windowed)]


width = partial(Mutant, right=RIGHT_WIDTH, introduced=kinds("probs"))
layered = partial(
    Mutant, right=RIGHT_LAYERS, introduced=kinds("probs"), needs=(WINDOWED, MIXED, BY_TYPE, OVER_WINDOW)
)
decoded = partial(
    Mutant, right=RIGHT_WIDTH, introduced=kinds("probs"), cached=True, needs=(WINDOWED, OVER_WINDOW, steps(1))
)
MUTANTS = (
    width(
        "window_missing",
        wrong="key <= query, whatever use_sliding_window says",
        change=in_layers(lambda windowed: [False for _ in windowed]),
        needs=(WINDOWED, BY_TYPE, OVER_WINDOW),
        seen=WINDOWS,
    ),
    width(
        "window_off_by_one_wider",
        wrong="query - window <= key: window keys beside the query's own",
        change=wider(1),
        needs=(WINDOWED, OVER_WINDOW),
        seen=github("huggingface/transformers/issues/39408", "ml-explore/mlx-lm/pull/390"),
    ),
    width(
        "window_off_by_one_narrower",
        wrong="query - window + 1 < key: one key fewer",
        change=wider(-1),
        needs=(WINDOWED, FILLS_WINDOW),
        seen=github("vllm-project/vllm/issues/3385"),
    ),
    layered(
        "window_in_every_layer",
        wrong="a window in all layers, max_window_layers ignored",
        change=in_layers(lambda windowed: [True for _ in windowed]),
        seen=github("huggingface/transformers/issues/35896", "huggingface/transformers/pull/36162"),
    ),
    layered(
        "window_layers_swapped",
        wrong="a window in the layers before max_window_layers",
        change=in_layers(lambda windowed: [not sliding for sliding in windowed]),
        seen=github("huggingface/transformers/issues/40126", "huggingface/transformers/pull/31775"),
    ),
    layered(
        "window_starts_late",
        wrong="a window from the layer after max_window_layers on: layers counted from 1",
        change=in_layers(_starts_late),
        needs=(WINDOWED, BY_TYPE, OVER_WINDOW),
        seen=github("NVIDIA-NeMo/Megatron-Bridge/pull/4875", "NVIDIA-NeMo/Speech/pull/9672"),
    ),
    decoded(
        "decode_window_missing",
        wrong="a decode step sees the whole cache",
        change=_in_steps(lambda mask, slots, window: allowed(mask, slots, jnp.asarray(NO_WINDOW, slots.dtype))),
        seen=github("karpathy/nanochat/pull/456"),
    ),
    decoded(
        "decode_window_wider",
        wrong="a decode step sees window keys of the cache beside its own",
        change=_in_steps(lambda mask, slots, window: allowed(mask, slots, window + 1)),
    ),
    decoded(
        "decode_window_narrower",
        wrong="a decode step sees window - 1 keys, its own included",
        change=_in_steps(lambda mask, slots, window: allowed(mask, slots, window - 1)),
        needs=(WINDOWED, FILLS_WINDOW, steps(1)),
        seen=github("mistralai/mistral-inference/issues/60", "lightseekorg/tokenspeed/pull/578"),
    ),
    decoded(
        "chunk_window_aligned_left",
        wrong="index in the call - window < key: a later call's window is counted from its first token",
        # Of single tokens, that hides nothing.
        change=OperationChange({"allowed": lambda mask, slots, window: allowed(mask, slots, window + slots[0])}),
        seen=github("trymirai/lalamo/pull/200", "pytorch/executorch/pull/21857"),
    ),
)
