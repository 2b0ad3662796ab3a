"""Calls and caches: what transformers does step by step is what is recorded layer by layer, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

import torch
from transformers import DynamicCache

from harness.along import Case, prompt_case
from harness.corpus import Corpus
from harness.entries import Batch, Decode, Generation, Offset, Prompt
from harness.errors import CorpusError, RecordError
from harness.families.graph import taps_of
from harness.golden import CaseEntry
from harness.record import calls
from harness.record.cases import case_of
from harness.record.environment import reproducible
from harness.record.model import Reference
from harness.record.recorder import Options, record
from harness.record.shell import arithmetic
from harness.store import open_golden
from tests.families.formulas import relative_rms
from tests.record.stepping import assert_equal_bits, layer_major, load, plain
from tests.record.test_resume import Killed, Listener

IDS = {"one": [5, 300, 7, 80, 41, 9, 212, 33, 6, 90, 91, 400], "two": [17, 18, 19, 400, 23], "three": [7, 90, 3]}
CASES = {
    "decode": Decode("one", "text", "why", steps=4),
    "chunks": Decode("one", "text", "why", steps=1, chunks=(5,)),
    "left": Batch("b", ("one", "two", "three"), "left", "why"),
    "right": Batch("b", ("one", "two", "three"), "right", "why"),
    "ragged decode": Batch("b", ("one", "two", "three"), "left", "why", steps=2),
    "offset": Offset("one", "text", ((0, 0), (4, 4090), (8, 32760)), "why"),
}
CORPUS = Corpus(
    prompts=(
        Prompt("short", "1 2 3", "why"),
        Prompt("words", "The quick brown fox", "why"),
        Prompt("kept", "1 2 3 4 5 6 7", "why", positions=(0, 4, 9)),
    ),
    decodes=(
        Decode("step", "The quick brown fox", "why", steps=2),
        Decode("chunk", "1 2 3 4", "why", steps=0, chunks=(3,)),
    ),
    batches=(Batch("left", ("short", "words"), "left", "why", steps=1),),
    offsets=(Offset("far", "1 2 3 4", ((0, 0), (3, 4090)), "why"),),
    generations=(Generation("free", "The quick", "why", tokens=5),),
)


def case(name: str) -> Case:
    return case_of(CASES[name], IDS, {}, pad=600)


@pytest.mark.parametrize("precision", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_layer_major_calls_equal_plain_stepping_bit_for_bit(tiny, name, precision):
    the = case(name)
    with reproducible():
        taps = layer_major(Reference(tiny), precision, the, again=True)
        outputs, cache = plain(tiny, precision, the)
    assert_equal_bits(taps, the, outputs, cache)


def test_positions_and_masks_of_a_batch_are_those_that_generate_makes(tiny):
    for name in ("left", "right"):
        the = case(name)
        mask = torch.from_numpy(the.mask).long()
        made = load(tiny, "float32")._prepare_position_ids_for_generation(
            torch.from_numpy(the.input_ids), {"attention_mask": mask}
        )
        assert made.tolist() == the.positions.tolist()


@pytest.fixture(scope="module")
def recorded(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("decode") / "a.h5"
    record(tiny, "t", CORPUS, str(path))
    with open_golden(path) as golden:
        golden.verify()
        yield golden


def test_every_kind_of_case_is_recorded_as_the_corpus_says(recorded):
    entries = {entry.name: entry for entry in recorded.manifest.cases}
    assert [(e.name, e.kind) for e in entries.values()] == [(e.name, e.kind) for e in CORPUS.entries]
    length = entries["words"].shape[1]
    assert entries["words"].calls == ()
    assert entries["step"].calls == (length - 2, 1, 1)
    assert entries["chunk"].calls == (3, entries["chunk"].shape[1] - 3)
    assert [row.text for row in entries["left"].rows] == ["1 2 3", "The quick brown fox"]
    assert entries["kept"].kept == (0, 4, 9)
    assert (entries["free"].generated, entries["free"].level) == (5, "logits")
    assert "layers.0.cache_k" in entries["step"].taps
    assert "layers.0.cache_k" not in entries["words"].taps


def test_a_decode_gives_the_truth_of_the_whole_prefill(recorded):
    for tap in recorded.manifest.case("words").taps:
        assert relative_rms(recorded.tap("step", tap), recorded.tap("words", tap)) < 1e-14, tap
    for layer in range(4):
        at = f"layers.{layer}"
        assert np.array_equal(recorded.tap("step", f"{at}.cache_k"), recorded.tap("step", f"{at}.k_rope"))
        assert np.array_equal(recorded.tap("step", f"{at}.cache_v"), recorded.tap("step", f"{at}.v"))


def test_a_row_of_a_batch_is_the_prompt_alone(recorded):
    the = recorded.case("left")
    for row, name in enumerate(("short", "words")):
        real = the.mask[row]
        for tap in ("layers.3.q_rope", "layers.2.context", "layers.3.resid_post", "logits"):
            assert relative_rms(recorded.tap("left", tap)[row][real], recorded.tap(name, tap)[0]) < 1e-14


def test_kept_positions_are_those_of_the_whole_and_attention_inputs_are_whole(tiny, recorded, tmp_path):
    whole = replace(CORPUS.prompt("kept"), positions=())
    record(tiny, "t", Corpus((whole,)), str(tmp_path / "whole.h5"))
    kept = [0, 4, 9]
    with open_golden(tmp_path / "whole.h5") as golden:
        for tap in golden.manifest.taps:
            if tap.kind in ("cache_k", "cache_v"):
                continue
            expected = golden.tap("kept", tap.name)
            found = recorded.tap("kept", tap.name)
            if tap.kind not in ("k_rope", "v"):
                expected = expected.take(kept, tap.position_axis)
            assert np.array_equal(found, expected), tap.name
        for kind in ("forward", "replay"):
            expected = golden.noise("kept", "float32", kind)[..., kept]
            assert np.array_equal(recorded.noise("kept", "float32", kind), expected)


def test_a_row_whose_positions_jump_still_sees_all_that_is_before(recorded):
    the = recorded.case("far")
    assert the.positions[0, :5].tolist() == [0, 1, 2, 4090, 4091]
    probs = recorded.tap("far", "layers.0.probs")[0, 0]
    assert (probs[np.tril_indices(the.length)] > 0).all()
    assert (probs[np.triu_indices(the.length, 1)] == 0).all()


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_generation_is_that_of_transformers(tiny, recorded, precision):
    the = recorded.case("free")
    text = the.input_ids[:, : -5 + 1]
    with reproducible(), arithmetic(precision), torch.inference_mode():
        model = load(tiny, precision)
        model.generation_config.eos_token_id = None
        ids = torch.from_numpy(text.copy()).long()
        written = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False, pad_token_id=0
        )
    tokens = recorded.generated("free", precision, "tokens")
    assert written[0, ids.shape[1] :].tolist() == tokens[0].tolist()
    if precision == "float64":
        assert the.input_ids[0, ids.shape[1] :].tolist() == tokens[0, :-1].tolist()
        logits = np.sort(recorded.tap("free", "logits")[0, -5:], axis=-1)
        margins = recorded.generated("free", "float64", "margins")[0]
        np.testing.assert_allclose(margins, logits[:, -1] - logits[:, -2], rtol=1e-10)


def test_replay_steps_on_a_golden_past(tiny, recorded):
    """In replay the cache is filled with truth, so nothing that an earlier step computed can matter."""
    model, the = Reference(tiny), recorded.case("step")
    stage = model.load("layers.2", ("float32",))
    taps = [tap for tap in taps_of(model.arch) if tap.stage == "layers.2"]

    def truth(name):
        return torch.from_numpy(recorded.tap("step", name).copy()).float()

    replacements = {tap.kind: truth(tap.name) for tap in taps}
    state = truth("layers.1.resid_post")
    inputs = model.inputs(the)

    def probs(state):
        run = calls.run_calls(stage, inputs, the.spans, taps, "float32", state, replacements)
        return run.values["probs"], run.values["cache_k"]

    spoilt = state.clone()
    spoilt[:, :2] = 7.0
    for found, expected in zip(probs(spoilt), probs(state), strict=True):
        assert torch.equal(found, expected)


def test_a_cache_that_changes_what_it_held_is_refused(tiny, tmp_path, monkeypatch):
    update = DynamicCache.update

    def rewriting(self, keys, values, layer_idx, *args, **kwargs):
        full_keys, full_values = update(self, keys, values, layer_idx, *args, **kwargs)
        self.layers[0].keys = full_keys * (1 + 2**-20)
        return full_keys, full_values

    monkeypatch.setattr(DynamicCache, "update", rewriting)
    with pytest.raises(RecordError, match="changed what it held") as refusal:
        record(tiny, "t", CORPUS, str(tmp_path / "a.h5"), Options(cases=("step",)))
    assert refusal.value.where == "layers.0.cache_k"


def test_what_was_generated_is_taken_up_by_the_next_run(tiny, tmp_path, monkeypatch):
    from harness.record import generation
    from harness.record.work import Work

    save, alone = Work.save, Options(cases=("free",))
    uninterrupted = record(tiny, "t", CORPUS, str(tmp_path / "b.h5"), alone)

    def dying(self, stage, case, unit):
        save(self, stage, case, unit)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Work, "save", dying)
        record(tiny, "t", CORPUS, str(tmp_path / "a.h5"), alone)
    runs = []
    run = generation.run_streams
    monkeypatch.setattr(
        generation, "run_streams", lambda model, streams: runs.extend(streams) or run(model, streams)
    )
    assert record(tiny, "t", CORPUS, str(tmp_path / "a.h5"), alone, Listener()).id == uninterrupted.id
    assert runs == []


@pytest.mark.parametrize(
    ("entry", "needed"),
    [
        (Decode("two", "text", "why", steps=5), 6),
        (Decode("two", "text", "why", steps=0, chunks=(3, 2)), 6),
        (Batch("b", ("one", "three"), "left", "why", steps=3), 4),
        (Offset("two", "text", ((0, 0), (5, 90)), "why"), 6),
        (Prompt("two", "text", "why", positions=(0, 5)), 6),
    ],
)
def test_a_text_with_too_few_tokens_is_refused(entry, needed):
    with pytest.raises(CorpusError, match="fewer tokens than it asks for") as refusal:
        case_of(entry, IDS, {}, 0)
    assert str(needed) in refusal.value.expected


def test_a_prompt_is_one_call_as_before():
    the = prompt_case("x", [5, 6, 7])
    assert the.spans == (slice(0, 3),)
    assert CaseEntry("x", "prompt", "t", "w", (), "ops", (1, 3), ()).cached is False
