"""Right ways to compute a mixture of experts match at every precision, in forward and on golden inputs."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

from harness.architecture import architecture_of
from harness.corpus import Corpus
from harness.entries import Batch, Prompt
from harness.mutants.eager import Eager
from harness.record.recorder import record
from harness.run.arithmetic import one_by_one_of
from harness.run.check import check
from harness.run.decoder import Decoder
from harness.run.question import Question
from tests.families import tiny
from tests.families.expert_variants import AROUND, OUT

CORPUS = Corpus(
    (
        Prompt("short", "1 2 3 45", "few tokens", level="logits"),
        Prompt("some", "one, two; three.", "enough tokens"),
    ),
    batches=(Batch("left", ("short", "some"), "left", "pads"),),
)
# Each is tried with one of the others: what is compared is then compared once.
TRIED = list(zip(OUT, AROUND, strict=True))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("variants")
    checkpoint, golden = tiny.write(folder / "model", "qwen3_moe", "plain"), folder / "golden.h5"
    record(checkpoint, "model", CORPUS, str(golden))
    return golden, checkpoint


@pytest.mark.parametrize(("out", "around"), TRIED, ids=[", ".join(pair) for pair in TRIED])
def test_a_right_variant_matches(recorded, out, around):
    def load(checkpoint, config, dtype):
        ops = one_by_one_of(architecture_of(config))
        changed = {name: make(getattr(ops, name)) for name, make in AROUND[around].items()}
        return Eager(
            Decoder.load(checkpoint, config, dtype, operations=replace(ops, experts_out=OUT[out], **changed))
        )

    question = Question(
        precisions=("float64", "float32", "bfloat16"), modes=("forward", "replay"), cases=("left",)
    )
    report = check(*recorded, out, question, load=load)
    assert report.verdict == "match", report.introduced
