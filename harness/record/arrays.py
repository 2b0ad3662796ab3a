"""From finished units of work to the golden's arrays, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness import golden
from harness.corpus import Case
from harness.golden import CaseEntry, Manifest
from harness.record.generation import GENERATION
from harness.record.layer_major import recorded
from harness.record.model import Reference
from harness.record.noise import Floors
from harness.record.work import Work
from harness.store import NewArray
from harness.taps import TOKENS


@dataclass(frozen=True)
class Loudest:
    """The largest absolute error of PyTorch's own float32 forward pass, and where it is."""

    error: float = -1.0
    tap: str = ""
    case: str = ""


@dataclass
class Tally:
    """What the summary says of the arrays, gathered as they pass."""

    nbytes: int = 0
    loudest: Loudest = field(default_factory=Loudest)


def golden_arrays(
    model: Reference, manifest: Manifest, cases: Sequence[Case], work: Work, tally: Tally
) -> Iterator[NewArray]:
    """Every array of the golden, case by case: inputs, taps in data-flow order, noise floors."""
    for case in cases:
        for array in _case_arrays(model, manifest, case, work, tally):
            tally.nbytes += array.array.nbytes
            yield array


def _case_arrays(model: Reference, manifest: Manifest, case: Case, work: Work, tally: Tally) -> Iterator[NewArray]:
    entry = manifest.case(case.name)
    for name in ("input_ids", "positions", "mask"):
        yield NewArray(golden.input_path(case.name, name), TOKENS, getattr(case, name))
    floors: dict[tuple[str, str], list[Floors]] = {
        (precision, kind): [] for precision in manifest.precisions for kind in golden.NOISE_KINDS
    }
    for stage in model.stages:
        taps = recorded(stage, entry, manifest.taps)
        if not taps:
            continue
        with work.reading(stage, case.name) as file:
            for tap in taps:
                truth = file.get_tensor(f"truth/{tap.name}").numpy().astype(manifest.truth_dtype)
                yield NewArray(golden.tap_path(case.name, tap.name), golden.stored_dims(entry, tap), truth)
            for (precision, kind), parts in floors.items():
                # Copied: a tensor that is kept keeps the whole file mapped, and with it every page that was read.
                parts.append(file.get_tensor(f"noise/{precision}/{kind}").numpy().copy())
    for (precision, kind), parts in floors.items():
        noise = np.concatenate(parts)
        if (precision, kind) == ("float32", "forward"):
            tally.loudest = _louder(tally.loudest, entry, noise)
        yield NewArray(golden.noise_path(case.name, precision, kind), golden.noise_dims(entry), noise)
    if entry.generated:
        with work.reading(GENERATION, case.name) as file:
            for precision in golden.GENERATED_PRECISIONS:
                for what in golden.GENERATED:
                    value = file.get_tensor(f"{precision}/{what}").numpy().copy()
                    yield NewArray(golden.generated_path(case.name, precision, what), golden.GENERATED_DIMS, value)


def _louder(so_far: Loudest, entry: CaseEntry, noise: Floors) -> Loudest:
    largest = noise[:, golden.STATISTICS.index("max")].max(axis=(1, 2))
    index = int(largest.argmax())
    if largest[index] <= so_far.error:
        return so_far
    return Loudest(float(largest[index]), entry.taps[index], entry.name)
