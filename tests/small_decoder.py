"""A small Qwen2, as data: its taps, and the fields of its config."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harness.architecture import architecture_of, family_of
from harness.families.graph import taps_of
from harness.families.neutral import LOOKED_AT, Read
from harness.taps import Tap
from tests.test_architecture import HUB

WINDOW = {**HUB, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2}


def fields_read() -> frozenset[str]:
    """The fields of a config that its reading looks at."""
    seen = Read(WINDOW)
    family_of(WINDOW).read(seen)
    return frozenset(seen.fields) | LOOKED_AT


def decoder_taps(layers: int, **options: Any) -> tuple[Tap, ...]:
    """All taps of a Qwen2 with that many layers, and with other options, in data-flow order."""
    return taps_of(replace(architecture_of(HUB), layers=layers, **options))
