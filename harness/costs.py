"""What the parts of a golden take, in bytes, as its manifest says: without the headers of its file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np

from harness.golden import Form, Manifest
from harness.layout import Layout

PARTS = ("logits", "other taps", "noise", "inputs and what was generated")
Costs = Mapping[str, Mapping[str, int]]  # by case, by part


def nbytes(form: Form) -> int:
    """What an array of this form takes."""
    return math.prod(form.shape) * np.dtype(form.dtype).itemsize


def costs(manifest: Manifest) -> Costs:
    """What each part of each case takes. The list of arrays is not asked: it may not be there yet."""
    found: dict[str, Counter[str]] = {case.name: Counter() for case in manifest.cases}
    for path, form in Layout(manifest).forms():
        _, case, *rest = path.split("/")
        found[case][_part(rest)] += nbytes(form)
    return found


def by_part(found: Costs) -> dict[str, int]:
    """The same over all cases, in the order of `PARTS`."""
    return {part: sum(parts.get(part, 0) for parts in found.values()) for part in PARTS}


def _part(rest: list[str]) -> str:
    if rest[0] == "taps":
        return "logits" if rest[-1] == "logits" else "other taps"
    return {"noise": "noise", "top": "logits"}.get(rest[0], PARTS[-1])
