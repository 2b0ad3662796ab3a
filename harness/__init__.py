"""Golden-artifact regression harness for JAX ports of PyTorch models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.labelled import LabelledGolden

__version__ = "0.1.0"


def open(path: str | Path) -> LabelledGolden:
    """A golden as labelled arrays: `harness.open("a.h5")["digits"].q_rope`. See `harness.labelled`.

    Raises:
        GoldenError: missing, not a golden, of another format version, damaged, or inconsistent.
    """
    from harness.labelled import LabelledGolden

    return LabelledGolden(path)
