"""A golden small enough to break in every place: a two-layer decoder, and every form that a case can have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from harness.architecture import architecture_of
from harness.families.graph import taps_of
from harness.golden import (
    FORMAT,
    FORMAT_VERSION,
    NOISE_KINDS,
    NOISE_PRECISIONS,
    NOISE_STATISTICS,
    ArrayEntry,
    CaseEntry,
    Manifest,
    ModelEntry,
    ParameterEntry,
    RowEntry,
    TokenizerEntry,
)
from harness.layout import (
    GENERATED_PRECISIONS,
    Layout,
    generated_path,
    input_path,
    noise_path,
    sizes_of,
    stored_dims,
)
from harness.selecting import at_level
from harness.store.abc import sha256
from harness.store.writer import NewArray

CONFIG: dict[str, Any] = {
    "model_type": "qwen2",
    "num_hidden_layers": 2,
    "hidden_size": 6,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "intermediate_size": 10,
    "vocab_size": 12,
    "rope_theta": 1e4,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
CASES = {
    "two-tokens": ("ops", (1, 2)),
    "padded": ("layers", (2, 3)),
    "chunked": ("ops", (1, 3)),
    "kept": ("ops", (1, 4)),
    "greedy": ("logits", (1, 3)),
}
Cases = dict[str, tuple[str, tuple[int, int]]]
# For tests that write or read all of it many times: still arrays of every kind.
FEW: Cases = {name: CASES[name] for name in ("chunked", "padded", "greedy")}
# What else makes a case what it is.
FORMS: dict[str, dict[str, Any]] = {
    "padded": {"kind": "batch", "rows": (RowEntry("a", "A"), RowEntry("b", "B"))},
    "chunked": {"kind": "decode", "calls": (2, 1)},
    "kept": {"kept": (0, 2)},
    "greedy": {"kind": "generation", "calls": (2, 1), "generated": 2},
}


def config(**changes: Any) -> dict[str, Any]:
    return CONFIG | changes


def case_entry(name: str, level: str, shape: tuple[int, int], model: dict[str, Any]) -> CaseEntry:
    form = FORMS.get(name, {})
    every = taps_of(architecture_of(model))
    taps = tuple(tap.name for tap in at_level(every, level, cached="calls" in form))
    entry = CaseEntry(name, "prompt", "text", "why", ("tag",), level, shape, taps)
    return replace(entry, **form)


def arrays(model: dict[str, Any] = CONFIG, cases: Cases = CASES, seed: int = 0) -> Iterator[NewArray]:
    """All that is stored, in storage order: arrays, and the slabs of stacks layer by layer."""
    usual = model == CONFIG and cases in (CASES, FEW)
    return iter(_usual(cases == FEW, seed)) if usual else _arrays(model, cases, seed)


@cache
def _usual(few: bool, seed: int) -> tuple[NewArray, ...]:
    made = tuple(_arrays(CONFIG, FEW if few else CASES, seed))
    for new in made:
        new.array.flags.writeable = False
    return made


def _arrays(model: dict[str, Any], cases: Cases, seed: int) -> Iterator[NewArray]:
    architecture = architecture_of(model)
    taps, places = {tap.name: tap for tap in taps_of(architecture)}, Layout(manifest(model, cases))
    rng = np.random.default_rng(seed)
    for name, (level, (batch, length)) in cases.items():
        entry = case_entry(name, level, (batch, length), model)
        ids = rng.integers(0, architecture.vocab, (batch, length)).astype(np.int32)
        yield NewArray(input_path(name, "input_ids"), ids)
        positions = np.tile(np.arange(length, dtype=np.int32), (batch, 1))
        yield NewArray(input_path(name, "positions"), positions)
        yield NewArray(input_path(name, "mask"), np.ones((batch, length), bool))
        sizes = architecture.sizes(batch, length) | {"kept": len(entry.kept)}
        for tap in entry.taps:
            dims = stored_dims(entry, taps[tap])
            path, index = places.place(entry, tap)
            yield NewArray(path, rng.normal(size=[sizes[dim] for dim in dims]), index or 0)
        for precision in NOISE_PRECISIONS:
            for kind in NOISE_KINDS:
                shape = (len(entry.taps), len(NOISE_STATISTICS), batch, len(entry.kept) or length)
                yield NewArray(noise_path(name, precision, kind), rng.random(shape, np.float32))
        for precision in GENERATED_PRECISIONS if entry.generated else ():
            tokens = rng.integers(0, architecture.vocab, (batch, entry.generated)).astype(np.int32)
            yield NewArray(generated_path(name, precision, "tokens"), tokens)
            margins = rng.random((batch, entry.generated))
            yield NewArray(generated_path(name, precision, "margins"), margins)


def stored() -> dict[str, np.ndarray]:
    """Every array as it can be read, stacks whole."""
    pieces: dict[str, list[np.ndarray]] = {}
    for new in arrays():
        pieces.setdefault(new.path, []).append(new.array)
    forms = dict(Layout(manifest()).forms())
    return {path: np.stack(found) if forms[path].stacked else found[0] for path, found in pieces.items()}


def entries() -> dict[str, ArrayEntry]:
    """What the manifest lists."""
    return dict(_entries())


@cache
def _entries() -> dict[str, ArrayEntry]:
    digests: dict[str, list[str]] = {}
    for new in arrays():
        digests.setdefault(new.path, []).append(sha256(new.array))
    forms = Layout(manifest()).forms()
    return {path: ArrayEntry(form.shape, form.dtype, form.dims, tuple(digests[path])) for path, form in forms}


def manifest(model: dict[str, Any] = CONFIG, cases: Cases = CASES, **changes: Any) -> Manifest:
    """The manifest that `write_golden` takes; `changes` replace fields of it."""
    architecture = architecture_of(model)
    made = Manifest(
        format=FORMAT,
        version=FORMAT_VERSION,
        model=ModelEntry("tiny", model, {"w": ParameterEntry((2, 2), "BF16", "0" * 64)}, 4, ("q",)),
        tokenizer=TokenizerEntry("1" * 64, ""),
        corpus_sha256="2" * 64,
        level="ops",
        truth_dtype="float64",
        precisions=NOISE_PRECISIONS,
        statistics=NOISE_STATISTICS,
        sizes=sizes_of(taps_of(architecture), architecture.sizes(1, 1)),
        taps=taps_of(architecture),
        cases=tuple(case_entry(name, level, shape, model) for name, (level, shape) in cases.items()),
        environment={"torch": "0"},
        command="python generate_goldens.py",
        arrays={},
    )
    return replace(made, **changes)


def complete(**changes: Any) -> Manifest:
    """The manifest as it is stored."""
    return manifest(arrays=entries(), **changes)
