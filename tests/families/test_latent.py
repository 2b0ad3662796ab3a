"""Latent attention: ports that compute it in other ways match, and bugs in them are found where they are."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

from harness.architecture import architecture_of, read_config
from harness.checkpoint import Checkpoint
from harness.corpus import Corpus
from harness.entries import Batch, Decode, Offset, Prompt
from harness.families import families
from harness.mutants.eager import Eager
from harness.record.recorder import record
from harness.run import bounds
from harness.run.arithmetic import one_by_one_of
from harness.run.check import check
from harness.run.decoder import Decoder
from harness.run.question import Question
from harness.run.source import GoldenSource
from harness.store import open_golden
from harness.tolerances import PRECISIONS
from tests.families import tiny
from tests.families.latent_ports import Absorbed, Expanded

CORPUS = Corpus(
    (Prompt("one", "A b", "few tokens", level="logits"), Prompt("some", "1 2 3 45", "tokens")),
    decodes=(Decode("chunk", "a cached", "two chunks and steps", steps=2, chunks=(3,)),),
    batches=(Batch("left", ("one", "some"), "left", "pads"),),
    offsets=(Offset("far", "1 2 3 45", ((0, 0), (3, 300)), "far"),),
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A golden of DeepSeek-V3 with dense MLPs, and its checkpoint."""
    directory = tmp_path_factory.mktemp("latent")
    fields = tiny.config("deepseek_v3", "plain") | {"first_k_dense_replace": 2}
    tiny.families.write_checkpoint(directory, fields)
    record(directory, "model", CORPUS, str(directory / "golden.h5"))
    return directory / "golden.h5", directory


def checked(recorded, port, question, bug=""):
    def load(directory, config, dtype):
        return port.load(directory, config, dtype, bug=bug)

    return check(*recorded, port.__name__, question, load=load)


@pytest.mark.parametrize("port", [Absorbed, Expanded])
def test_another_way_to_compute_it_matches_in_every_mode_at_every_precision(recorded, port):
    report = checked(recorded, port, Question(precisions=PRECISIONS))
    assert report.verdict == "match", report.introduced
    assert {result.mode for result in report.results} == {"forward", "replay", "prefill", "alone"}
    hidden = {result.tap.rpartition(".")[2] for result in report.results} & {"kv", "cache_latent", "cache_k_pe"}
    assert hidden == {"kv", "cache_latent", "cache_k_pe"} - set(port.without)


# By bug: the case that it is looked for in, and where it is introduced.
BUGS = {
    "values before keys": ("some", {"probs", "context"}),
    "mscale once": ("some", {"probs"}),
    "scale of the turned part": ("some", {"probs"}),
    "halves": ("some", {"q_rope", "k_pe_rope"}),
    "eps of the latents": ("some", {"q_latent_norm", "kv_latent_norm"}),
    "a slot early": ("chunk", {"cache_latent", "cache_k_pe"}),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_in_an_absorbed_product_is_introduced_where_it_is(recorded, bug):
    case, kinds = BUGS[bug]
    question = Question(precisions=("float64",), modes=("replay",), cases=(case,))
    report = checked(recorded, Absorbed, question, bug)
    assert {tap.rpartition(".")[2] for tap in report.introduced} == kinds


def test_positions_may_count_from_the_pads(recorded):
    """What is turned lies behind the rest of a head, in halves."""

    class FromPads(Absorbed):
        positions_from_pads = ("left",)

        def forward(self, ids, positions, mask, cache, tap):
            return super().forward(ids, positions + (~mask).sum(1, keepdims=True), mask, cache, tap)

    report = checked(recorded, FromPads, Question(precisions=("float64",), cases=("left",), modes=("replay",)))
    assert report.verdict == "match", report.introduced
    report = checked(recorded, Absorbed, Question(precisions=("float64",), cases=("left",), modes=("replay",)))
    assert report.verdict == "match", report.introduced


def bounded(recorded, report):
    """By kind of tap, how many times its bound an error is, where it has one."""
    golden, directory = recorded
    weights = Checkpoint(directory, families()["deepseek_v3"].stored)
    found = {}
    with open_golden(golden) as opened:
        sources = {precision: GoldenSource(opened, precision) for precision in PRECISIONS}
        for result in (r for r in report.results if r.mode == "replay"):
            largest = bounds.bound(
                result, sources[result.precision], weights, architecture_of(read_config(directory))
            )
            if largest is not None:
                kind = result.tap.rpartition(".")[2]
                found[kind] = max(found.get(kind, 0.0), replace(result, bound=largest).beyond_rounding)
    return found


def replayed(recorded, **factors):
    """A check of the decoder, operation by operation, some of whose results are multiplied."""

    def load(directory, config, dtype):
        right = one_by_one_of(architecture_of(config))
        wrong = {name: scaled(getattr(right, name), factor) for name, factor in factors.items()}
        return Eager(Decoder.load(directory, config, dtype, operations=replace(right, **wrong)))

    question = Question(precisions=("float32",), modes=("replay",), cases=("far", "chunk"))
    return check(*recorded, "decoder", question, load=load)


def scaled(operation, factor):
    return lambda *args: operation(*args) * factor


def test_roundings_of_a_right_port_are_within_what_they_can_add_up_to(recorded):
    found = bounded(recorded, replayed(recorded))
    of_latents = {
        "q_latent",
        "q_latent_norm",
        "kv_latent",
        "k_pe",
        "k_pe_rope",
        "kv",
        "cache_latent",
        "cache_k_pe",
    }
    assert found.keys() >= {*of_latents, "q", "q_rope", "probs", "context", "attn_out"}
    assert max(found.values()) <= 1
    assert found["probs"] > 1e-3 and found["context"] > 1e-3


def test_a_bug_of_latent_attention_is_proven_to_be_no_rounding(recorded):
    found = bounded(recorded, replayed(recorded, scores=1.01, context=1.001))
    assert found["probs"] > 1 and found["context"] > 1
    assert max(share for kind, share in found.items() if kind not in ("probs", "context")) <= 1
