"""The taps of a small decoder, for tests of what has taps of any kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harness.architecture import architecture_of
from harness.families.graph import taps_of
from harness.taps import Tap
from tests.test_architecture import HUB


def decoder_taps(layers: int, **options: Any) -> tuple[Tap, ...]:
    """All taps of a Qwen2 with that many layers, and with other options, in data-flow order."""
    return taps_of(replace(architecture_of(HUB), layers=layers, **options))
