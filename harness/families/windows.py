"""The sliding window of every layer, as a Qwen2 config describes it.

`use_sliding_window` says whether there is one, `sliding_window` how wide it is. Which layers have it, the hub's
dialect says by `max_window_layers` (the layers from that index on) and transformers 5 by `layer_types` as well.
"""

from __future__ import annotations

import reprlib

from harness.families.options import Windows
from harness.fields import GUESS, Config, integer, refused, wrong

FULL, SLIDING = "full_attention", "sliding_attention"
TWICE = "the config says twice which layers have the sliding window, and differently"
WHICH = "remove the wrong one; transformers goes by layer_types where it is given"
WIDEST = 2**31 - 1  # positions are int32
MOST_LAYERS = 1024  # every layer has twenty taps; the deepest published models have some 130


def layers_of(config: Config) -> int:
    return integer(config, "num_hidden_layers", most=MOST_LAYERS)


def windows_of(config: Config) -> Windows:
    """By layer, how many keys a query sees at most, its own included; None where it sees all before it.

    Raises:
        CheckpointError: a field is missing, or two fields contradict each other.
    """
    by_type, used = by_layer_types(config), _is_used(config)
    for field in ("sliding_window", "max_window_layers"):
        config.get(field)  # where no window is used, they say nothing
    if not used:
        if by_type and any(by_type):
            problem = "the config switches the sliding window off, and gives it to layers"
            expected = f"true, or no {SLIDING} among the types"
            found = f"{config.get('use_sliding_window')} and {reprlib.repr(config['layer_types'])}"
            hint = "restore both fields from the published config.json"
            raise refused(problem, "use_sliding_window and layer_types", expected, found, hint)
        return (None,) * layers_of(config)
    width, by_index = integer(config, "sliding_window", most=WIDEST), _by_index(config)
    slides = by_index if by_type is None else by_type
    if slides is None:
        problem = "the config does not say which layers have the sliding window"
        expected = "the index of the first layer with a window, or the type of every layer"
        raise refused(problem, "max_window_layers or layer_types", expected, "neither", GUESS)
    if by_index not in (None, slides):
        expected = f"{SLIDING} from layer {config['max_window_layers']} on"
        found = f"layer_types {reprlib.repr(config['layer_types'])}"
        raise refused(TWICE, "max_window_layers and layer_types", expected, found, WHICH)
    return tuple(width if sliding else None for sliding in slides)


def _is_used(config: Config) -> bool:
    used = config.get("use_sliding_window")
    if isinstance(used, bool) or (used is None and config.get("sliding_window") is None):
        return bool(used)
    problem = "the config gives a sliding window and does not say whether it is used"
    raise wrong(problem, "use_sliding_window", "true or false", used, GUESS)


def by_layer_types(config: Config) -> tuple[bool, ...] | None:
    """By layer, whether `layer_types` gives it a window; None where there is no such field."""
    types, layers = config.get("layer_types"), layers_of(config)
    if types is None:
        return None
    if not isinstance(types, list) or len(types) != layers or not all(kind in (FULL, SLIDING) for kind in types):
        expected = f"{FULL} or {SLIDING} for each of {layers} layers"
        hint = "check a checkpoint with full and sliding-window attention and no other"
        raise wrong("this list of layer types is not supported", "layer_types", expected, types, hint)
    return tuple(kind == SLIDING for kind in types)


def by_pattern(config: Config, absent: int) -> tuple[bool, ...]:
    """By layer, whether it has a window: all but every n-th, unless `layer_types` says it.

    Args:
        absent: n where there is no `sliding_window_pattern` either.
    """
    step = absent
    if config.get("sliding_window_pattern") is not None:
        step = integer(config, "sliding_window_pattern")
    pattern, types = tuple((index + 1) % step != 0 for index in range(layers_of(config))), by_layer_types(config)
    if types is not None and config.get("sliding_window_pattern") is not None and types != pattern:
        expected = f"full attention in every layer {step}"
        raise wrong(TWICE, "sliding_window_pattern and layer_types", expected, config["layer_types"], WHICH)
    return pattern if types is None else types


def widths(config: Config, slides: tuple[bool, ...]) -> Windows:
    """The window of every layer, from which of them have one."""
    width = integer(config, "sliding_window", most=WIDEST) if any(slides) else None
    config.get("sliding_window")  # where no layer has one, it says nothing
    return tuple(width if sliding else None for sliding in slides)


def everywhere(config: Config, absent: int | None = None) -> Windows:
    """The same window in every layer, where `sliding_window` alone says it.

    Args:
        absent: the width where there is no such field; where it is null, there is no window.
    """
    width = absent
    if "sliding_window" in config:
        none = config["sliding_window"] is None
        width = None if none else integer(config, "sliding_window", most=WIDEST)
    return (width,) * layers_of(config)


def _by_index(config: Config) -> tuple[bool, ...] | None:
    """By layer, whether `max_window_layers` gives it a window; None where there is no such field."""
    if config.get("max_window_layers") is None:
        return None
    first = integer(config, "max_window_layers", least=0)
    return tuple(layer >= first for layer in range(layers_of(config)))
