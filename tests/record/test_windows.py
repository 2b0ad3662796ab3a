"""Sliding windows in the recorder: what transformers does, layer by layer, whichever of its caches it uses."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

import torch
from transformers import DynamicCache

from harness import embedded
from harness.corpus import Corpus, load_corpus
from harness.entries import Batch, Decode, Prompt
from harness.record import windowed
from harness.record.cases import case_of
from harness.record.environment import reproducible
from harness.record.model import Reference
from harness.record.recorder import Options, record
from harness.record.shell import arithmetic
from harness.run.check import check
from harness.run.question import Question
from harness.run.weights import Weights
from harness.store import open_golden
from tests.families.formulas import forward, relative_rms
from tests.record.conftest import read_weights
from tests.record.stepping import assert_equal_bits, layer_major, load, plain
from tests.record.test_recorder import assert_same_truth

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
IDS = {
    "one": [5, 200, 7, 80, 41, 9, 212, 33, 6, 90, 91, 240],
    "two": [17, 18, 19, 140, 23, 8, 9],
    "three": [7, 90],
}
CASES = {
    "decode": Decode("one", "text", "why", steps=8),
    "chunks": Decode("one", "text", "why", steps=2, chunks=(4,)),
    "left": Batch("b", ("one", "two", "three"), "left", "why"),
    "ragged decode": Batch("b", ("one", "two", "three"), "left", "why", steps=1),
}


def case(name):
    return case_of(CASES[name], IDS, {}, pad=windowed.BYTES)


@pytest.mark.parametrize("precision", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_layer_major_calls_equal_plain_stepping_bit_for_bit(window_checkpoint, name, precision):
    the = case(name)
    with reproducible():
        taps = layer_major(Reference(window_checkpoint), precision, the, again=True)
        outputs, cache = plain(window_checkpoint, precision, the)
    assert_equal_bits(taps, the, outputs, cache)  # all slots of the cache among it


@pytest.mark.parametrize("name", ["decode", "chunks", "ragged decode"])
def test_the_cache_that_transformers_makes_by_default_drops_old_tokens_and_gives_the_same_logits(
    window_checkpoint, name
):
    the = case(name)
    ids, positions, mask = (torch.from_numpy(a).long() for a in (the.input_ids, the.positions, the.mask))
    real = torch.from_numpy(the.mask)
    with reproducible(), torch.inference_mode():
        taps = layer_major(Reference(window_checkpoint), "float64", the)
        model = load(window_checkpoint, "float64")
        cache = DynamicCache(config=model.config)
        for span in the.spans:
            with arithmetic("float64"):
                logits = model(
                    input_ids=ids[:, span],
                    position_ids=positions[:, span],
                    attention_mask=mask[:, : span.stop],
                    past_key_values=cache,
                ).logits
            counted = real[:, span]
            error = relative_rms(logits[counted].numpy(), taps["logits"][:, span][counted].numpy())
            assert error < 1e-14, f"{span}: {error:.2g}"
    held = [layer.keys.shape[2] for layer in cache.layers]
    assert held == [the.length, windowed.WINDOW - 1, windowed.WINDOW - 1]
    kept = taps["layers.1.cache_k"][:, 1 - windowed.WINDOW :].transpose(1, 2)
    assert np.allclose(cache.layers[1].keys, kept, rtol=0, atol=1e-13), (
        "what it keeps is the end of what is recorded"
    )


def test_each_kind_of_layer_has_the_mask_of_its_kind(window_checkpoint):
    """Row by row, the keys with a probability: all before the query, or the last six."""
    taps = layer_major(Reference(window_checkpoint), "float32", case("left"))
    length = case("left").length
    causal = np.tril(np.ones((length, length), bool))
    near = causal & ~np.tril(causal, -windowed.WINDOW)
    for layer, expected in enumerate((causal, near, near)):
        assert np.array_equal(taps[f"layers.{layer}.probs"][0, 0] > 0, expected)


def test_truth_agrees_with_an_independent_float64_implementation_at_every_tap(window_golden, window_checkpoint):
    config = json.loads((window_checkpoint / "config.json").read_text())
    weights = read_weights(window_checkpoint)
    with open_golden(window_golden) as golden:
        for name in ("one-beyond", "far-beyond"):
            entry, ids = golden.manifest.case(name), golden.case(name).input_ids[0].tolist()
            independent = forward(weights, config, ids)
            blind = forward(weights, {**config, "use_sliding_window": False}, ids)
            for tap in entry.taps:
                value, truth = independent[tap], golden.tap(name, tap)
                axis = next(tap_.position_axis for tap_ in golden.manifest.taps if tap_.name == tap)
                kept = list(entry.kept) if truth.shape[axis] != value.shape[axis] else slice(None)
                value = np.moveaxis(np.moveaxis(value, axis, 0)[kept], 0, axis)
                assert relative_rms(value, truth) < 5e-15, f"{name}: {tap}"
            assert relative_rms(blind["layers.1.probs"], independent["layers.1.probs"]) > 1e-3


def test_the_committed_checkpoint_is_what_the_module_makes(window_checkpoint, tmp_path):
    windowed.write_checkpoint(tmp_path / "made")
    assert sorted(path.name for path in window_checkpoint.iterdir()) == sorted(FILES)
    for name in FILES:
        assert (tmp_path / "made" / name).read_bytes() == (window_checkpoint / name).read_bytes(), name


def test_the_committed_golden_is_what_this_recorder_records_on_its_own_corpus(
    window_golden, window_checkpoint, tmp_path
):
    """On another machine the last bits may differ, and so the id; the truth may not."""
    corpus = load_corpus(embedded.corpus_of("qwen2-window"))
    assert corpus.digest != load_corpus(embedded.corpus_of("qwen2-tiny")).digest
    names = ("one-beyond", "across", "left")
    record(window_checkpoint, "qwen2-window", corpus, str(tmp_path / "again.h5"), Options(cases=names))
    with open_golden(window_golden) as committed, open_golden(tmp_path / "again.h5") as again:
        assert_same_truth(committed, again, corpus, names)


def test_its_prompts_are_as_long_as_they_say_and_it_is_small(window_golden, window_checkpoint):
    files = [window_golden, *window_checkpoint.iterdir()]
    assert sum(file.stat().st_size for file in files) < 1.2e6
    with open_golden(window_golden) as golden:
        lengths = [golden.case(name).length for name in ("shorter", "as-long", "one-beyond", "far-beyond")]
        assert lengths == [4, windowed.WINDOW, windowed.WINDOW + 1, 35]
        first, *_ = golden.manifest.case("across").calls
        assert first < windowed.WINDOW < golden.case("across").length
        assert golden.manifest.case("chunks").calls == (4, 5, 1)


def test_it_is_stored_in_float32_with_values_that_float16_cannot_hold(window_checkpoint):
    weights = read_weights(window_checkpoint)
    assert {tensor.dtype for tensor in weights.values()} == {np.dtype(np.float32)}
    lost = {}
    for name, tensor in weights.items():
        through = tensor.astype(np.float16).astype(np.float32)
        assert np.isfinite(through).all()
        assert (through == tensor).mean() < 0.001, f"{name}: float16 holds it"
        lost[name] = relative_rms(through, tensor)
    worst = f"model.layers.{windowed.SIZE.layers - 1}.mlp.up_proj.weight"
    assert lost.pop(worst) > 2**-7, "more than bfloat16 loses"
    assert max(lost.values()) < 2**-11


@pytest.fixture(scope="module")
def two_prompts(window_checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("two") / "r.h5"
    prompts = Corpus((Prompt("short", "able", "why"), Prompt("long", "a window that is long", "why")))
    record(window_checkpoint, "qwen2-window", prompts, str(path))
    return path


@pytest.mark.parametrize("precision", ["float64", "float32", "bfloat16"])
def test_weights_that_went_through_float16_show_at_every_precision(
    window_checkpoint, two_prompts, precision, monkeypatch
):
    question = Question(precisions=(precision,), modes=("replay",))
    assert check(two_prompts, window_checkpoint, question=question).verdict == "match"

    def through_float16(self, name):
        return jnp.asarray(self.checkpoint.read(name).astype(np.float16).astype(self.dtype))

    monkeypatch.setattr(Weights, "read", through_float16)
    report = check(two_prompts, window_checkpoint, question=question)
    assert report.verdict == "diverged"
    if precision == "bfloat16":
        assert report.introduced == ("layers.2.up",), "and there alone: elsewhere float16 has more bits"


def test_the_built_in_port_matches_a_left_padded_decode_over_the_edge(window_checkpoint, tmp_path):
    corpus = Corpus(
        prompts=(Prompt("short", "able", "why"), Prompt("long", "a window", "why")),
        batches=(Batch("ragged", ("short", "long"), "left", "why", steps=3),),
    )
    record(window_checkpoint, "qwen2-window", corpus, str(tmp_path / "r.h5"), Options(cases=("ragged",)))
    question = Question(precisions=("float32",))
    assert check(tmp_path / "r.h5", window_checkpoint, question=question).verdict == "match"
