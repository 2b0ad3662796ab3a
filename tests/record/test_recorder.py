"""A recording as a whole: the same id every time, levels and dtypes, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

import torch

from harness import embedded
from harness.architecture import architecture_of
from harness.corpus import Corpus
from harness.entries import Prompt
from harness.errors import CheckpointError, CorpusError, GoldenError, RecordError, UsageError
from harness.families.graph import taps_of
from harness.golden import NOISE_PRECISIONS, encode
from harness.record import unit
from harness.record.model import Layer
from harness.record.recorder import Options, record
from harness.selecting import at_level
from harness.store import open_golden

WORDS = Corpus((Prompt("words", "The quick brown", "short"),))


def test_recording_twice_gives_the_same_id_whatever_the_path_and_format(tiny, small, tmp_path):
    elsewhere = tmp_path / "deep" / "er"
    elsewhere.mkdir(parents=True)
    first = record(tiny, "qwen2-tiny", small, str(tmp_path / "a.h5"))
    second = record(tiny, "qwen2-tiny", small, str(elsewhere / "b.zarr"))
    assert first.id == second.id
    with open_golden(tmp_path / "a.h5") as golden:
        assert golden.id == first.id
        assert str(tmp_path) not in encode(golden.manifest).decode(), "no path is part of a golden"
        golden.verify()


@pytest.fixture(scope="module")
def levels(tiny, small, tmp_path_factory):
    """Goldens of every level, as it is asked for; the deepest is what is recorded without options."""
    folder = tmp_path_factory.mktemp("levels")
    for level in ("ops", "layers", "logits"):
        record(tiny, "t", small, str(folder / f"{level}.h5"), Options(level=level))
    return folder


@pytest.mark.parametrize(
    "change",
    [{"level": "layers"}, {"dtype": "float32"}, {"cases": ("deep",)}],
    ids=["level", "dtype", "cases"],
)
def test_every_option_that_decides_the_content_changes_the_id(tiny, small, levels, tmp_path, change):
    with open_golden(levels / "ops.h5") as golden:
        assert record(tiny, "t", small, str(tmp_path / "a.h5"), Options(**change)).id != golden.id


def assert_same_truth(committed, again, corpus, names) -> None:
    """A golden of the whole corpus against a recording of some of its cases."""
    assert committed.manifest.model == again.manifest.model
    assert committed.manifest.tokenizer == again.manifest.tokenizer
    assert committed.manifest.corpus_sha256 == corpus.digest
    assert [case.name for case in committed.manifest.cases] == [entry.name for entry in corpus.entries]
    for name in names:
        entry = committed.manifest.case(name)
        assert entry == again.manifest.case(name)
        for tap in entry.taps:
            expected = committed.tap(name, tap)
            scale = np.abs(expected).max()
            assert np.abs(again.tap(name, tap) - expected).max() <= 1e-12 * scale, f"{name}: {tap}"


def test_the_committed_golden_is_what_this_recorder_records(tiny, corpus, tmp_path):
    """On another machine the last bits may differ, and so the id; the truth may not."""
    names = ("hello", "quick-brown", "repetition", "chinese", "decode", "batch-decode", "offset")
    record(tiny, "qwen2-tiny", corpus, str(tmp_path / "again.h5"), Options(cases=names))
    with open_golden(embedded.golden()) as committed, open_golden(tmp_path / "again.h5") as again:
        assert_same_truth(committed, again, corpus, names)


def test_a_case_is_recorded_at_the_shallower_of_its_own_level_and_the_one_asked_for(levels):
    for level, expected in (
        ("ops", ["ops", "layers", "logits"]),
        ("layers", ["layers", "layers", "logits"]),
        ("logits", ["logits"] * 3),
    ):
        with open_golden(levels / f"{level}.h5") as golden:
            assert [case.level for case in golden.manifest.cases] == expected
            every = taps_of(architecture_of(golden.manifest.model.config))
            for case in golden.manifest.cases:
                assert case.taps == tuple(tap.name for tap in at_level(every, case.level, cached=False))


def test_the_level_does_not_change_what_is_recorded(levels):
    with open_golden(levels / "ops.h5") as ops, open_golden(levels / "logits.h5") as logits:
        assert np.array_equal(ops.tap("deep", "logits"), logits.tap("deep", "logits"))
        forward = [golden.noise("deep", "float32", "forward")[-1] for golden in (ops, logits)]
        assert np.array_equal(*forward)


@pytest.fixture(scope="module")
def words(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "a.h5"
    record(tiny, "qwen2-tiny", WORDS, str(path))
    return path


def test_float32_truth_is_float64_truth_rounded(tiny, words, tmp_path):
    record(tiny, "qwen2-tiny", WORDS, str(tmp_path / "float32.h5"), Options(dtype="float32"))
    with open_golden(words) as double, open_golden(tmp_path / "float32.h5") as single:
        for tap in single.manifest.case("words").taps:
            assert single.tap("words", tap).dtype == np.float32
            assert np.array_equal(single.tap("words", tap), double.tap("words", tap).astype(np.float32))
        floors = [golden.noise("words", "bfloat16", "replay") for golden in (single, double)]
        assert np.array_equal(*floors)


def test_provenance_says_what_ran_where_and_how(words):
    with open_golden(words) as golden:
        environment = golden.manifest.environment
        assert environment["libraries"]["torch"] == torch.__version__.partition("+")[0] or "+" in torch.__version__
        assert {"python", "torch", "transformers", "numpy", "safetensors", "tokenizers"} <= set(
            environment["libraries"]
        )
        assert environment["hardware"]["device"] == "cpu"
        assert environment["precision"]["deterministic_algorithms"] is True
        assert environment["precision"]["float32_matmul_precision"] == "highest"
        assert "eager" in environment["precision"]["attention"]
        assert golden.manifest.command.startswith("generate_goldens.py --model qwen2-tiny --corpus sha256:")


def test_a_reference_that_does_not_agree_with_itself_is_refused(tiny, small, tmp_path, monkeypatch):
    calls = []
    forward = Layer._forward

    def drifting(self, precision, state, inputs, tap):
        """As a nondeterministic kernel would: one bit of one value in one pass of one stream."""
        out = forward(self, precision, state, inputs, tap)
        if self.prefix == "layers.2" and precision == "bfloat16":
            calls.append(precision)
            if len(calls) % 2 == 0:
                tap.values["gate"].view(torch.int16)[0, 0, 0] ^= 1
        return out

    monkeypatch.setattr(Layer, "_forward", drifting)
    with pytest.raises(RecordError, match="does not agree with itself") as refusal:
        record(tiny, "t", small, str(tmp_path / "a.h5"))
    assert refusal.value.where == "layers.2.gate, bfloat16 forward"
    assert not (tmp_path / "a.h5").exists()


def test_drift_that_only_reaches_the_next_stage_is_noticed_too(tiny, small, tmp_path, monkeypatch):
    passes = iter(range(1000))
    forward = Layer._forward

    def drifting(self, precision, state, inputs, tap):
        out = forward(self, precision, state, inputs, tap)
        return out + 1e-15 * next(passes) if self.prefix == "layers.1" and precision == "float64" else out

    monkeypatch.setattr(Layer, "_forward", drifting)
    with pytest.raises(RecordError, match="does not agree with itself") as refusal:
        record(tiny, "t", small, str(tmp_path / "a.h5"), Options(level="logits"))
    assert refusal.value.where == "layers.1.resid_post, truth"


def test_every_stream_of_one_case_is_run_twice_in_every_stage(tiny, small, tmp_path, monkeypatch):
    seen = []
    agreed = unit._agreed
    monkeypatch.setattr(
        unit, "_agreed", lambda stage, stream, once: seen.append(stream) or agreed(stage, stream, once)
    )
    record(tiny, "t", small, str(tmp_path / "a.h5"))
    draws = ["", *(f" {draw}" for draw in range(1, 4))]  # of a short case, and the first is PyTorch as it is
    pairs = [f"{p} {kind}{draw}" for p in NOISE_PRECISIONS for draw in draws for kind in ("forward", "replay")]
    # Nothing is replaced there, replay is forward; and tokens come in the same in every draw.
    first = [f"{precision} forward" for precision in NOISE_PRECISIONS]
    assert seen == ["truth", *first, *["truth", *pairs] * 5]


@pytest.mark.parametrize(
    "parameter",
    [
        "model.embed_tokens.weight",
        "model.layers.1.self_attn.k_proj.bias",
        "model.layers.1.mlp.up_proj.weight",
        "lm_head.weight",
    ],
)
@pytest.mark.parametrize("level", ["ops", "logits"])
def test_a_weight_that_is_not_finite_is_refused_before_anything_is_run(shallow_copy, tmp_path, parameter, level):
    def spoil(weights):
        weights[parameter] = weights[parameter].copy()
        weights[parameter][..., 0] = np.nan

    with pytest.raises(CheckpointError, match="not finite") as refusal:
        record(shallow_copy(weights=spoil), "t", WORDS, str(tmp_path / "a.h5"), Options(level=level))
    first = "[0]" if parameter.endswith("bias") else "[0, 0]"
    assert str(refusal.value.where).endswith(f"copy: {parameter}, at {first}")
    assert not list(tmp_path.glob("a.h5*")), "nothing is left behind"


def spoiled_runs(monkeypatch, prefix, spoil):
    """Runs of a layer as they are, but for what `spoil` does to what was tapped, or goes out, in float64."""
    forward = Layer._forward

    def spoiled(self, precision, state, inputs, tap):
        out = forward(self, precision, state, inputs, tap)
        if self.prefix == prefix and precision == "float64":
            spoil(tap.values, out)
        return out

    monkeypatch.setattr(Layer, "_forward", spoiled)


@pytest.mark.parametrize("kind", ["k", "up", "resid_post"])
def test_a_value_that_is_not_finite_though_all_weights_are_is_refused_at_its_tap(
    tiny, tmp_path, monkeypatch, kind
):
    def spoil(values, out):
        (out if kind == "resid_post" else values[kind])[0, -1, ..., 0] = torch.nan

    spoiled_runs(monkeypatch, "layers.1", spoil)
    with pytest.raises(RecordError, match="not finite") as refusal:
        record(tiny, "t", WORDS, str(tmp_path / "a.h5"))
    assert refusal.value.where == f"layers.1.{kind}, truth"


def test_a_value_that_is_not_finite_is_refused_even_where_its_tap_is_not_recorded(tiny, tmp_path, monkeypatch):
    def spoil(values, out):
        assert not values, "no tap of a layer is recorded at this level"
        out[0, -1, 0] = torch.inf

    spoiled_runs(monkeypatch, "layers.0", spoil)
    with pytest.raises(RecordError, match="not finite") as refusal:
        record(tiny, "t", WORDS, str(tmp_path / "a.h5"), Options(level="logits"))
    assert refusal.value.where == "layers.0.resid_post, truth"


def test_a_golden_that_is_there_is_replaced_only_by_force(tiny, tmp_path):
    path = tmp_path / "a.h5"
    record(tiny, "t", WORDS, str(path), Options(level="logits"))
    before = path.read_bytes()
    with pytest.raises(GoldenError, match="already"):
        record(tiny, "t", WORDS, str(path))
    assert path.read_bytes() == before
    record(tiny, "t", WORDS, str(path), Options(overwrite=True))
    with open_golden(path) as golden:
        assert golden.manifest.level == "ops"


def test_an_unknown_case_is_refused_with_the_names_there_are(tiny, small, tmp_path):
    with pytest.raises(CorpusError, match="no entry of this name") as refusal:
        record(tiny, "t", small, str(tmp_path / "a.h5"), Options(cases=("deep", "deeper")))
    assert refusal.value.expected == "deep, residual, shallow"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused(tiny, small, tmp_path):
    with pytest.raises(UsageError, match="no CUDA device"):
        record(tiny, "t", small, str(tmp_path / "a.h5"), Options(device="cuda"))


def test_settings_of_torch_are_as_they_were_after_a_recording(tiny, tmp_path):
    record(tiny, "t", WORDS, str(tmp_path / "a.h5"), Options(level="logits"))
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_default_dtype() == torch.float32
