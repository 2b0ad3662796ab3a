"""Checkpoints to record: the embedded one, and copies of it that a test may change. Imports no torch itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import embedded
from harness.corpus import Corpus, load_corpus
from harness.entries import Prompt

TINY = embedded.directory() / "qwen2-tiny"
Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def tiny() -> Path:
    return TINY


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    return load_corpus(embedded.directory() / "corpus.toml")


@pytest.fixture(scope="session")
def small() -> Corpus:
    """Three prompts at three levels: quick to record, and nothing of the recorder is left out."""
    return Corpus(
        (
            Prompt("deep", "The quick brown fox", "every operation"),
            Prompt("residual", "1 2 3 4 5 6 7 8", "the residual stream", level="layers"),
            Prompt("shallow", "Hello", "the logits", level="logits"),
        )
    )


@pytest.fixture(scope="module")
def few_draws() -> Iterator[None]:
    """PyTorch's error is drawn twice and not four times, as in long cases: for tests that look at none of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.record.noise.DRAWS_OF_SHORT", 2)
        yield


@pytest.fixture
def shallow_copy(tmp_path: Path) -> Callable[..., Path]:
    """Makes a copy of the embedded checkpoint with fewer layers, and with changes.

    config: fields to set, or to remove where None; weights: changes the dictionary of tensors in place.
    """

    def make(
        name: str = "copy",
        layers: int = 2,
        config: dict[str, Any] | None = None,
        weights: Callable[[Tensors], None] = lambda _: None,
    ) -> Path:
        directory = tmp_path / name
        shutil.copytree(TINY, directory)
        fields = json.loads((TINY / "config.json").read_text()) | {"num_hidden_layers": layers} | (config or {})
        kept = {field: value for field, value in fields.items() if value is not None}
        (directory / "config.json").write_text(json.dumps(kept))
        tensors = read_weights(TINY)
        for tensor in list(tensors):
            parts = tensor.split(".")
            if parts[1] == "layers" and int(parts[2]) >= layers:
                del tensors[tensor]
        weights(tensors)
        write_weights(directory / "model.safetensors", tensors)
        return directory

    return make


def read_weights(directory: Path) -> Tensors:
    from harness.checkpoint import Checkpoint

    checkpoint = Checkpoint(directory)
    return {name: checkpoint.read(name) for name in checkpoint.names}


def write_weights(path: Path, tensors: Tensors) -> None:
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)
