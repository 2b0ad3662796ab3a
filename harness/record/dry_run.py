"""What a recording will take, before an hour is spent: passes, bytes, memory. No weight is read."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from msgspec import UNSET
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from harness.along import Case
from harness.corpus import Corpus
from harness.costs import Costs, by_part, costs
from harness.entries import Generation
from harness.families.parameters import expert_shapes
from harness.golden import NOISE_PRECISIONS, CaseEntry, Manifest
from harness.record.cases import cases_of
from harness.record.experts import room
from harness.record.layer_major import recorded, replays_of, witness_of
from harness.record.model import Reference
from harness.record.noise import DTYPES
from harness.record.recorder import Options, asked_of, check_selection, entries_of, manifest_of
from harness.record.tokens import tokenize

BF16 = 2  # bytes; what weights are mostly stored in


@dataclass(frozen=True)
class Estimate:
    """What a recording will take.

    Attributes:
        passes: by case, how often it goes through a layer, on average.
        costs: of the golden, by case and part, in bytes.
        weights: bytes of the largest stage in all precisions.
        values: bytes of the largest case in one layer, in all streams and draws.
        unfinished: bytes of what passes from stage to stage, on disk until the end, beside what the golden holds.
    """

    passes: dict[str, float]
    costs: Costs
    weights: int
    values: int
    unfinished: int


def estimate(checkpoint: Path, corpus: Corpus, options: Options) -> Estimate:
    """Look at config, tokenizer and the headers of the weights.

    Raises:
        HarnessError: whatever a recording would refuse about them.
    """
    selected = corpus.select(options.cases)
    model = asked_of(checkpoint, options.device, corpus, options.selected)
    tokenized = tokenize(checkpoint, corpus, selected, model.arch.vocab)
    written = {entry.name: [0] * entry.tokens for entry in selected if isinstance(entry, Generation)}
    cases = cases_of(model.arch, selected, tokenized.ids, written, tokenized.pad)
    check_selection(model, selected, options)
    manifest = manifest_of(model, "", corpus, tokenized, options, {})
    manifest = replace(manifest, cases=entries_of(model, corpus, selected, cases, options))
    return Estimate(
        passes={name: sum(of.values()) for name, of in passes(manifest, model.stages).items()},
        costs=costs(manifest),
        weights=_weights(model),
        values=max(_values(model, manifest, entry) for entry in manifest.cases),
        unfinished=_unfinished(model, cases, manifest),
    )


def show(needs: Estimate, out: str, console: Console) -> None:
    """The estimate on one screen; a disk or a memory that it does not fit into is pointed out."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("case", "passes", "size"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name, parts in needs.costs.items():
        table.add_row(name, f"{needs.passes[name]:.4g}", decimal(sum(parts.values())))
    console.print(table)
    whole = by_part(needs.costs)
    golden = sum(whole.values())
    disk, memory = 2 * golden + needs.unfinished, needs.weights + needs.values
    stage = f"one stage: weights in three precisions {decimal(needs.weights)}, values {decimal(needs.values)}"
    for label, value in (
        ("golden", f"{decimal(golden)}: {', '.join(f'{part} {decimal(n)}' for part, n in whole.items() if n)}"),
        ("disk", f"{decimal(disk)} until it is finished{_beside(disk, _free(out), 'free')}"),
        ("memory", f"{decimal(memory)}{_beside(memory, psutil.virtual_memory().available, 'available')}"),
        ("", stage),
    ):
        console.print(f"{label:<12}{value}", highlight=False, soft_wrap=True)
    console.print("nothing was recorded: this was a dry run", highlight=False)


def _beside(needed: int, there: int | None, word: str) -> str:
    if there is None:
        return ""
    return f" ({decimal(there)} {word}{': too little' if needed > there else ''})"


def _free(out: str) -> int | None:
    """Free bytes where a golden will lie; None for a URL."""
    if "://" in out:
        return None
    parent = Path(out).resolve().parent
    return shutil.disk_usage(parent).free if parent.is_dir() else None


def passes(manifest: Manifest, stages: Sequence[str]) -> dict[str, dict[str, float]]:
    """By case and precision, how often it goes through a layer, on average.

    See `harness.record.unit`: truth once, the others in forward and replay for every draw; one case twice.
    """
    witness, by_case = witness_of(manifest.cases), {}
    layers = stages[1:-1]
    for entry in manifest.cases:
        replays = replays_of(stages, entry, manifest.taps)
        replayed = sum(replays[stage].runs for stage in layers) / len(layers)
        times = 2 if entry.name == witness else 1
        noisy = times * entry.draws * (1 + replayed)
        by_case[entry.name] = {"float64": float(times)} | dict.fromkeys(NOISE_PRECISIONS, noisy)
    return by_case


def _weights(model: Reference) -> int:
    """Of the largest stage: as it is stored, and in every precision."""
    sizes: dict[str, int] = {}
    layers = f"{model.family.layers}."
    for name, shape in model.shapes.items():
        if f".{model.family.sparse.get('experts_out', '-')}." in name:
            continue  # of one expert at a time
        stage = name.removeprefix(layers).partition(".")[0] if name.startswith(layers) else name
        sizes[stage] = sizes.get(stage, 0) + math.prod(shape)
    bytes_each: int = BF16 + sum(dtype.itemsize for dtype in DTYPES.values())
    return max(sizes.values()) * bytes_each + _experts(model)


def _experts(model: Reference) -> int:
    """Of a layer's experts: as they are read, as many as there is room for, and of one of them in a stream."""
    if model.arch.experts is None:
        return 0
    shapes = expert_shapes(model.family, model.arch)
    path = model.family.sparse["experts_out"]
    numbers = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(f"{path}."))
    per_expert: int = numbers // model.arch.experts.count * DTYPES["float64"].itemsize
    return min(numbers * BF16, room()) + per_expert


def _values(model: Reference, manifest: Manifest, entry: CaseEntry) -> int:
    """Of one case in its largest stage: truth, its replacements, and every draw of forward and replay."""
    whole = replace(manifest, cases=(replace(entry, kept=(), top=UNSET),), truth_dtype="float64")
    parts = costs(whole)[entry.name]
    layers = sum(bool(recorded(stage, entry, manifest.taps)) for stage in model.stages[1:-1])
    stage = max(parts.get("logits", 0), parts.get("other taps", 0) // max(1, layers))
    return stage + stage // 2 * (1 + 2 * entry.draws)


def _unfinished(model: Reference, cases: Sequence[Case], manifest: Manifest) -> int:
    """The hidden states of every stream after every stage."""
    total = 0
    for case, entry in zip(cases, manifest.cases, strict=True):
        carried = sum(replay.carries for replay in replays_of(model.stages, entry, manifest.taps).values())
        drawn = entry.draws * (4 + 2)  # bytes of the streams of both precisions
        streams = (8 + drawn) * len(model.stages) + drawn * carried
        total += case.batch * case.length * model.arch.hidden * streams
    return total
