"""From finished units of work to the golden's arrays, one at a time."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness import layout
from harness.along import Case
from harness.golden import NOISE_KINDS, CaseEntry, Manifest, statistic
from harness.layout import Layout
from harness.record.generation import GENERATION
from harness.record.largest import LOGITS
from harness.record.layer_major import recorded
from harness.record.model import Reference
from harness.record.noise import Floors
from harness.record.work import Work
from harness.store.writer import NewArray


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
) -> Generator[NewArray, None, None]:
    """Every array of the golden, case by case: inputs, taps in data-flow order, noise floors."""
    places = Layout(manifest)
    for case in cases:
        for array in _case_arrays(model, manifest, places, case, work, tally):
            tally.nbytes += array.array.nbytes
            yield array


def _case_arrays(
    model: Reference, manifest: Manifest, places: Layout, case: Case, work: Work, tally: Tally
) -> Iterator[NewArray]:
    entry = manifest.case(case.name)
    for name in layout.INPUTS:
        yield NewArray(layout.input_path(case.name, name), getattr(case, name))
    floors: dict[tuple[str, str], list[Floors]] = {
        (precision, kind): [] for precision in manifest.precisions for kind in NOISE_KINDS
    }
    for stage in model.stages:
        taps = recorded(stage, entry, manifest.taps)
        if not taps:
            continue
        with work.reading(stage, case.name) as unit:
            for tap in taps:
                name = f"truth/{tap.name}"
                stored = unit.tensor(name).numpy()
                truth = stored.astype(manifest.truth_dtype, copy=False)
                path, index = places.place(entry, tap.name)
                yield NewArray(path, truth, index or 0, unit.digests[name] if truth is stored else "")
            if entry.top and taps[-1].kind == LOGITS:
                for name in layout.TOP:
                    yield NewArray(layout.top_path(case.name, name), unit.tensor(f"top/{name}").numpy().copy())
            # A tensor that is kept keeps the whole file mapped, and with it every page that was read.
            del stored, truth
            for (precision, kind), parts in floors.items():
                parts.append(unit.tensor(f"noise/{precision}/{kind}").numpy().copy())
    for (precision, kind), parts in floors.items():
        noise = np.concatenate(parts)
        if (precision, kind) == ("float32", "forward"):
            tally.loudest = _louder(tally.loudest, entry, noise)
        yield NewArray(layout.noise_path(case.name, precision, kind), noise)
    if entry.generated:
        with work.reading(GENERATION, case.name) as unit:
            for precision in layout.GENERATED_PRECISIONS:
                for name in layout.GENERATED:
                    value = unit.tensor(f"{precision}/{name}").numpy().copy()
                    yield NewArray(layout.generated_path(case.name, precision, name), value)


def _louder(so_far: Loudest, entry: CaseEntry, noise: Floors) -> Loudest:
    largest = noise[:, statistic("max")].max(axis=(1, 2))
    index = int(largest.argmax())
    if largest[index] <= so_far.error:
        return so_far
    return Loudest(float(largest[index]), entry.taps[index], entry.name)
