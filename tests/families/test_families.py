"""What every family has to show. One joins by being listed in `tiny.py`."""

from __future__ import annotations

import functools
import json
import shutil
from dataclasses import replace

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

import jax
import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig

from harness.along import prompt_case
from harness.architecture import architecture_of, difference, read_config
from harness.corpus import Corpus
from harness.entries import Batch, Decode, Generation, Offset, Prompt
from harness.errors import CheckpointError, CorpusError
from harness.families import families
from harness.families.graph import taps_of, with_experts_apart
from harness.mutants.planting import loader
from harness.mutants.trial import RIGHT
from harness.record import capture
from harness.record.capture import Collector
from harness.record.cases import case_of
from harness.record.environment import reproducible
from harness.record.model import Reference
from harness.record.recorder import Options, record
from harness.run.check import Checker, check, checked
from harness.run.dialect import Parameters
from harness.run.question import Question
from tests.families import tiny
from tests.record import test_windows as windows
from tests.record.stepping import assert_equal_bits, layer_major, plain

# Over the edge of a window in three steps: each is a run of the whole model.
IDS = {**windows.IDS, "few": windows.IDS["one"][:8]}
CASES = {**windows.CASES, "decode": Decode("few", "text", "why", steps=3)}
# Every kind of case, in few shapes, for each is compiled in three precisions: calls of 1, 5 and 7 tokens, and
# caches of 7 slots. (The chunks and steps of a cache are compared with one call of them all.)
CORPUS = Corpus(
    (Prompt("one", "A b c", "few tokens", level="logits"), Prompt("some", "1 2 3 4", "more than a window")),
    decodes=(Decode("chunk", "a cache", "two chunks and a step", steps=1, chunks=(1,)),),
    batches=(Batch("left", ("one", "some"), "left", "pads"),),
    offsets=(Offset("far", "1 2 3 4", ((0, 0), (3, 300)), "far"),),
    generations=(Generation("free", "Then ", "tokens", tokens=3),),
)
each = pytest.mark.parametrize(("family", "name"), tiny.ALL, ids=["-".join(one) for one in tiny.ALL])


@pytest.fixture(autouse=True)
def strict_ranks():
    """The built-in decoder promotes no rank by accident, in any family."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    return {one: tiny.write(folder / "-".join(one), *one) for one in tiny.ALL}


@pytest.fixture(scope="module")
def reference():
    """A checkpoint as it is recorded, its stages loaded once for all cases, as by the recorder."""

    @functools.cache
    def opened(directory, apart):
        model = Reference(directory, apart=apart)
        model.load = functools.cache(model.load)
        return model

    return opened


def test_every_family_is_tried():
    assert tiny.CONFIGS.keys() == families().keys()


@each
def test_both_dialects_of_its_config_describe_one_architecture(checkpoints, family, name, tmp_path):
    directory = checkpoints[family, name]
    AutoConfig.from_pretrained(directory).save_pretrained(tmp_path)
    assert difference(read_config(directory), read_config(tmp_path)) == []


@each
@pytest.mark.parametrize("case", ["decode", "chunks", "left", "ragged decode"])
@pytest.mark.parametrize("precision", ["float64", "float32", "bfloat16"])
def test_what_is_recorded_is_what_transformers_computes_bit_for_bit(
    checkpoints, reference, family, name, case, precision
):
    the, directory = case_of(CASES[case], IDS, {}, pad=tiny.BYTES), checkpoints[family, name]
    with reproducible():
        model = reference(directory, precision == "float32")
        taps = layer_major(model, precision, the, again=case == "ragged decode")
        outputs, cache = plain(directory, precision, the)
    assert_equal_bits(taps, the, outputs, cache)


def moved(model) -> dict[str, set[str]]:
    """By kind of tap, the kinds that change where it is nudged inside transformers' own layer."""
    ids = list(range(1, 30))
    stage, inputs = model.load("layers.1", ("float64",)), replace(model.inputs(prompt_case("case", ids)), kept={})
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(1, len(ids), model.arch.hidden, dtype=torch.float64, generator=generator)

    def run(given):
        tap = Collector("layers.1", stage.kinds, given)
        out = stage.run("float64", state.clone(), inputs, tap)
        return {**tap.values, "resid_post": out}

    seen, found = run({}), {}
    assert all(torch.equal(value, run(dict(seen))[kind]) for kind, value in seen.items())
    for kind, value in seen.items():
        nudge = 1 + 0.5 * torch.rand(value.shape, generator=generator, dtype=value.dtype)
        other = value * nudge
        # Other experts, and other weights: no nudge is sure to change a choice.
        nudged = run({kind: other.roll(1, -1) if kind in ("router_logits", "routing") else other})
        found[kind] = {other for other in seen if not torch.equal(nudged[other], seen[other])} - {kind}
    return found


def downstream(arch) -> dict[str, set[str]]:
    """By kind, the kinds that the table calls downstream of it, in one layer."""
    found: dict[str, set[str]] = {}
    taps = [tap for tap in taps_of(with_experts_apart(arch, True)) if tap.stage == "layers.1"]
    for tap in reversed(taps):
        readers = [other for other in taps if tap.name in other.inputs]
        found[tap.kind] = set().union(*({other.kind} | found[other.kind] for other in readers))
    return found


@each
def test_nudging_a_tap_changes_what_the_table_calls_downstream_of_it(checkpoints, reference, family, name):
    directory = checkpoints[family, name]
    assert moved(reference(directory, True)) == downstream(architecture_of(read_config(directory)))


def test_a_wrong_table_is_seen(checkpoints, reference):
    directory = checkpoints["llama", "llama3"]
    arch, found = architecture_of(read_config(directory)), moved(reference(directory, True))
    for wrong in ("post", "parallel_two"):
        assert found != downstream(replace(arch, placement=wrong))


def test_a_place_that_means_another_tap_is_seen(checkpoints, reference, monkeypatch):
    """The hook fires, once, and means something else: q and k have changed places."""
    directory = checkpoints["llama", "llama3"]
    model = reference(directory, True)
    right = capture._made
    monkeypatch.setattr(
        capture,
        "_made",
        lambda tap, kinds, *rest: right(tap, tuple({"gate": "up", "up": "gate"}.get(k, k) for k in kinds), *rest),
    )
    assert moved(model)["gate"] == downstream(architecture_of(read_config(directory)))["gate"]
    monkeypatch.setattr(
        capture,
        "_made",
        lambda tap, kinds, *rest: right(tap, tuple({"q": "k", "k": "q"}.get(k, k) for k in kinds), *rest),
    )
    assert moved(model) != downstream(architecture_of(read_config(directory)))


@each
def test_the_built_in_decoder_computes_it(checkpoints, family, name, tmp_path):
    directory, golden = checkpoints[family, name], tmp_path / "golden.h5"
    record(directory, "model", CORPUS, str(golden))
    question = Question(precisions=("float64", "float32", "bfloat16"))
    # Operation by operation; compiled as a whole it is checked on the embedded goldens.
    with Checker(golden, directory, "built-in", question, load=loader(RIGHT), inspect=False) as checker:
        report = checked(checker)
    assert report.verdict == "match", report.introduced
    assert {result.mode for result in report.results} == {"forward", "replay", "prefill", "alone"}
    half_ulps = [r.rms_multiple for r in report.results if r.precision == "float64" and r.case != "far"]
    assert max(half_ulps) * 2**-53 < 1e-13


@each
def test_a_field_that_is_not_known_is_refused_by_name(checkpoints, family, name, tmp_path):
    fields = tiny.config(family, name) | {"attention_sinks": 4}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(Exception, match="attention_sinks"):
        architecture_of(read_config(tmp_path))


def test_gpt2_is_read_by_the_names_of_its_published_files_as_well(checkpoints, tmp_path):
    """Without a prefix, and with masks as buffers: what is recorded is the same, and so is what ports read."""
    directory = checkpoints["gpt2", "plain"]
    shutil.copytree(directory, tmp_path / "gpt2")
    tensors = load_file(directory / "model.safetensors")
    stored = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    stored["h.0.attn.bias"] = np.ones((1, 1, 8, 8), np.uint8)
    save_file(stored, tmp_path / "gpt2" / "model.safetensors", metadata={"format": "pt"})
    one, other = Reference(directory).checkpoint, Reference(tmp_path / "gpt2").checkpoint
    assert one.table() == other.table()
    ports = Parameters(tmp_path / "gpt2", read_config(directory))
    assert "wte.weight" in ports and "h.0.attn.bias" not in ports
    assert np.array_equal(ports["lm_head.weight"], ports["wte.weight"])


def test_gpt_neox_is_read_by_the_names_of_its_published_files_as_well(checkpoints, tmp_path):
    directory = checkpoints["gpt_neox", "parallel"]
    shutil.copytree(directory, tmp_path / "neox")
    stored = load_file(directory / "model.safetensors")
    stored["embed_out.weight"] = stored.pop("lm_head.weight")
    stored["gpt_neox.layers.0.attention.masked_bias"] = np.full((1,), -1e9, np.float32)
    save_file(stored, tmp_path / "neox" / "model.safetensors", metadata={"format": "pt"})
    assert Reference(directory).checkpoint.table() == Reference(tmp_path / "neox").checkpoint.table()
    stored["lm_head.weight"] = stored["embed_out.weight"]
    save_file(stored, tmp_path / "neox" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="two tensors of the checkpoint are one parameter"):
        Reference(tmp_path / "neox")


def test_a_case_that_mixes_the_two_tables_of_longrope_is_refused(checkpoints, tmp_path):
    """Keys in the cache were turned by one table, and a call goes by the other."""
    directory = checkpoints["phi3", "longrope"]
    corpus = Corpus((), decodes=(Decode("over", "x" * 66, "64 tokens, and two", steps=3),))
    with pytest.raises(CorpusError, match="goes beyond the original length of LongRoPE in some of its calls"):
        record(directory, "model", corpus, str(tmp_path / "golden.h5"))
    whole = Corpus((Prompt("beyond", "x" * 66, "in one call"),))
    record(directory, "model", whole, str(tmp_path / "golden.h5"), Options(level="layers"))
    question = Question(precisions=("float64", "float32", "bfloat16"))
    report = check(tmp_path / "golden.h5", directory, "built-in", question, load=loader(RIGHT))
    assert report.verdict == "match", report.introduced
