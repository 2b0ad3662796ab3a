"""The embedded checkpoint: the same bytes every time, and shaped so that bugs can be seen on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

from harness.record import tiny as maker
from harness.store import open_golden
from tests.record.conftest import read_weights

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def test_the_committed_checkpoint_is_what_the_module_makes(tiny, tmp_path):
    made = tmp_path / "made"
    environment = os.environ | {"PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "3"}
    subprocess.run(
        [sys.executable, "-m", "harness.record.tiny", str(made)], check=True, timeout=60, env=environment
    )
    assert sorted(path.name for path in tiny.iterdir()) == sorted(FILES)
    for name in FILES:
        assert (made / name).read_bytes() == (tiny / name).read_bytes(), name


def test_another_seed_makes_another_checkpoint():
    one, other = maker.parameters(), maker.parameters(seed=1)
    assert not any(np.array_equal(one[name], other[name]) for name in one)


def test_its_config_has_no_accidental_symmetry(tiny):
    config = json.loads((tiny / "config.json").read_text())
    assert 1 < config["num_key_value_heads"] < config["num_attention_heads"]
    assert np.log2(config["hidden_size"]) % 1 != 0
    assert config["hidden_size"] == config["num_attention_heads"] * maker.HEAD_DIM, "a transposed q or o fits"
    assert config["vocab_size"] > maker.TOKENS + len(maker.SPECIAL), "padded, as the published one is"
    assert not config["tie_word_embeddings"]


def test_its_weights_are_structured(tiny):
    weights = {name: tensor.astype(np.float64) for name, tensor in read_weights(tiny).items()}
    outliers = "model.layers.0."
    biases = np.concatenate(
        [t for name, t in weights.items() if name.endswith(".bias") and not name.startswith(outliers)]
    )
    assert 0.45 < biases.std() < 0.55
    norms = np.concatenate([tensor for name, tensor in weights.items() if "norm" in name])
    assert 0.7 <= norms.min() < 0.75 and 1.25 < norms.max() <= 1.3
    assert 0.9 < weights["model.layers.0.mlp.down_proj.weight"].std() * np.sqrt(maker.INTERMEDIATE) < 1.1


def test_attention_is_neither_flat_nor_saturated_and_the_logits_have_size_1(golden_path):
    """Scores are ratios of probabilities: their std over the keys of a row is that of log(probs)."""
    with open_golden(golden_path) as golden:
        for layer in range(maker.LAYERS):
            probs = golden.tap("code", f"layers.{layer}.probs")
            rows = [np.log(probs[0, head, row, : row + 1]) for head in range(maker.HEADS) for row in range(8, 40)]
            spread = np.mean([row.std() for row in rows])
            assert 1 < spread < 3, f"layer {layer}: {spread:.2f}"
        assert 0.8 < golden.tap("code", "logits").std() < 1.2


def test_a_wrong_norm_eps_shows_at_the_first_norm(golden_path):
    with open_golden(golden_path) as golden:
        square = (golden.tap("code", "embed") ** 2).mean(-1)
    change = np.sqrt((square + 1e-6) / (square + 1e-5)) - 1
    assert np.abs(change).min() > 1e-3


def test_a_gate_or_an_up_is_beyond_7_in_every_layer_but_most_are_not(golden_path):
    with open_golden(golden_path) as golden:
        cases = [case.name for case in golden.manifest.cases if "layers.0.gate" in case.taps]
        for layer in range(maker.LAYERS):
            gate, up = (
                np.concatenate([golden.tap(case, f"layers.{layer}.{kind}").ravel() for case in cases])
                for kind in ("gate", "up")
            )
            assert max(gate.max(), np.abs(up).max()) > 8, layer
            assert (gate > 7).mean() < 0.01 and (np.abs(up) > 7).mean() < 0.01, layer


@pytest.mark.parametrize(("case", "row"), [("python-is-great", 0), ("batch-left", 1)])
def test_one_token_has_a_score_far_above_all_others_in_one_head(golden_path, case, row):
    with open_golden(golden_path) as golden:
        ids = golden.case(case).input_ids[row].tolist()
        assert ids.index(maker.FAR_TOKEN) == len(ids) - 1
        q, k = (golden.tap(case, f"layers.0.{name}")[row] for name in ("q_rope", "k_rope"))
        real = golden.case(case).mask[row]
    q, k, group = q[real], k[real], maker.HEADS // maker.KV_HEADS
    for head in range(maker.HEADS):
        scores = q[:, head] @ k[:, head // group].T / np.sqrt(maker.HEAD_DIM)
        beyond = scores[:-1, -1] - scores[:-1, :-1].max(axis=1)
        assert (beyond > 95).all() if head == 0 else (beyond < 10).all()


def test_that_token_stands_alone_and_last(golden_path):
    with open_golden(golden_path) as golden:
        for entry in golden.manifest.cases:
            ids = golden.case(entry.name).input_ids
            found = (ids == maker.FAR_TOKEN).sum(axis=1)
            assert found.max() <= 1, entry.name
