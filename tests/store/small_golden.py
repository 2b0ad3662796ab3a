"""A golden small enough to break in every place: a one-layer decoder, and every form that a case can have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from harness.architecture import architecture_of
from harness.golden import (
    FORMAT,
    FORMAT_VERSION,
    GENERATED_DIMS,
    GENERATED_PRECISIONS,
    NOISE_KINDS,
    NOISE_PRECISIONS,
    STATISTICS,
    ArrayEntry,
    CaseEntry,
    Manifest,
    ModelEntry,
    ParameterEntry,
    RowEntry,
    TokenizerEntry,
    generated_path,
    input_path,
    noise_dims,
    noise_path,
    stored_dims,
    tap_path,
)
from harness.store import NewArray
from harness.taps import TOKENS, at_level

CONFIG: dict[str, Any] = {
    "model_type": "qwen2",
    "num_hidden_layers": 1,
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
    every = architecture_of(model).taps()
    taps = tuple(tap.name for tap in at_level(every, level, cached="calls" in form))
    entry = CaseEntry(name, "prompt", "text", "why", ("tag",), level, shape, taps)
    return replace(entry, **form)


def arrays(model: dict[str, Any] = CONFIG, cases: Cases = CASES, seed: int = 0) -> Iterator[NewArray]:
    """All arrays of the golden, in storage order."""
    architecture = architecture_of(model)
    taps = {tap.name: tap for tap in architecture.taps()}
    rng = np.random.default_rng(seed)
    for name, (level, (batch, length)) in cases.items():
        entry = case_entry(name, level, (batch, length), model)
        ids = rng.integers(0, architecture.vocab, (batch, length)).astype(np.int32)
        yield NewArray(input_path(name, "input_ids"), TOKENS, ids)
        positions = np.tile(np.arange(length, dtype=np.int32), (batch, 1))
        yield NewArray(input_path(name, "positions"), TOKENS, positions)
        yield NewArray(input_path(name, "mask"), TOKENS, np.ones((batch, length), bool))
        sizes = architecture.sizes(batch, length) | {"kept": len(entry.kept)}
        for tap in entry.taps:
            dims = stored_dims(entry, taps[tap])
            yield NewArray(tap_path(name, tap), dims, rng.normal(size=[sizes[dim] for dim in dims]))
        for precision in NOISE_PRECISIONS:
            for kind in NOISE_KINDS:
                shape = (len(entry.taps), len(STATISTICS), batch, len(entry.kept) or length)
                yield NewArray(noise_path(name, precision, kind), noise_dims(entry), rng.random(shape, np.float32))
        for precision in GENERATED_PRECISIONS if entry.generated else ():
            tokens = rng.integers(0, architecture.vocab, (batch, entry.generated)).astype(np.int32)
            yield NewArray(generated_path(name, precision, "tokens"), GENERATED_DIMS, tokens)
            margins = rng.random((batch, entry.generated))
            yield NewArray(generated_path(name, precision, "margins"), GENERATED_DIMS, margins)


def manifest(
    model: dict[str, Any] = CONFIG, cases: Cases = CASES, **changes: Any
) -> Callable[[dict[str, ArrayEntry]], Manifest]:
    """The function that `write_golden` takes; `changes` replace fields of the manifest."""

    def make(entries: dict[str, ArrayEntry]) -> Manifest:
        made = Manifest(
            format=FORMAT,
            version=FORMAT_VERSION,
            model=ModelEntry("tiny", model, {"w": ParameterEntry((2, 2), "BF16", "0" * 64)}, 4, ("q",)),
            tokenizer=TokenizerEntry("1" * 64, False),
            corpus_sha256="2" * 64,
            level="ops",
            truth_dtype="float64",
            precisions=NOISE_PRECISIONS,
            taps=architecture_of(model).taps(),
            cases=tuple(case_entry(name, level, shape, model) for name, (level, shape) in cases.items()),
            environment={"torch": "0"},
            command="python generate_goldens.py",
            arrays=entries,
        )
        return replace(made, **changes)

    return make
