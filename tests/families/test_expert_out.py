"""What each expert makes of a token: recorded where a corpus asks, and a bug in one expert is introduced there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

from safetensors.numpy import load_file

from harness.architecture import architecture_of
from harness.corpus import Corpus, load_corpus
from harness.entries import Batch, Prompt
from harness.errors import CorpusError, PortError
from harness.families.graph import taps_of
from harness.mutants.audit import AuditQuestion, audit
from harness.record.recorder import asked_of, record
from harness.run.arithmetic import operations_of
from harness.run.check import check
from harness.run.decoder import Decoder
from harness.run.question import Question
from harness.selecting import EVERYTHING, Selected, at_level
from harness.store import open_golden
from tests.families import tiny
from tests.families.formulas import Model
from tests.families.formulas_of_experts import USUAL, of_expert, through

NAME, TAP, EXPERT = ("qwen3_moe", "plain"), "layers.1.expert_out", 3
CORPUS = Corpus(
    (Prompt("one", "A b", "few tokens", level="logits"), Prompt("some", "1 2 3 45", "tokens")),
    batches=(Batch("left", ("one", "some"), "left", "pads"),),
    experts=True,
)
REPLAY = Question(precisions=("float64",), modes=("replay",), cases=("some",))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A golden that asks, and its checkpoint."""
    folder = tmp_path_factory.mktemp("apart")
    directory, golden = tiny.write(folder / "model", *NAME), folder / "golden.h5"
    record(directory, "model", CORPUS, str(golden))
    return golden, directory


class Plain(Decoder):
    """A port that knows nothing of it."""

    also = ()


def with_one_wrong(x, routing, gate, up, down, act, *apart):
    wrong = down._replace(kernel=down.kernel.at[EXPERT].multiply(1.001))
    return RIGHT(x, routing, gate, up, wrong, act, *apart)


def summed_wrong(*args):
    return 1.001 * RIGHT(*args)


RIGHT = operations_of(architecture_of(tiny.config(*NAME))).experts_out


def loading(port, experts_out=RIGHT):
    def load(directory, config, dtype):
        ops = replace(operations_of(architecture_of(config)), experts_out=experts_out)
        return port.load(directory, config, dtype, operations=ops)

    return load


def test_it_is_what_the_formula_says_in_the_order_of_the_experts(recorded):
    golden, directory = recorded
    m = Model(load_file(directory / "model.safetensors"), tiny.config(*NAME), np.arange(8))
    m.layer = 1
    with open_golden(golden) as opened:
        x, routing, found = (
            opened.tap("some", f"layers.1.{kind}")[0] for kind in ("mlp_norm", "routing", "expert_out")
        )
        total = opened.tap("some", "layers.1.experts_out")[0]
    for token, weights in enumerate(routing):
        chosen = np.flatnonzero(weights)
        expected = [through(m, of_expert(m, USUAL, expert), x[token]) for expert in chosen]
        np.testing.assert_allclose(found[token], expected, rtol=0, atol=1e-13)
        np.testing.assert_allclose(weights[chosen] @ found[token], total[token], rtol=0, atol=1e-13)


def test_the_decoder_matches_it_in_every_mode(recorded):
    report = check(*recorded, question=Question(precisions=("bfloat16",), cases=("left",)))
    assert report.verdict == "match", report.introduced
    assert {one.mode for one in report.results if one.tap == TAP} == {"forward", "replay", "alone"}


def test_a_bug_in_one_expert_is_introduced_there_and_one_in_their_sum_is_not(recorded):
    report = check(*recorded, "wrong", REPLAY, load=loading(Decoder, with_one_wrong))
    assert report.introduced == (TAP,)
    assert next(result.worst.index for result in report.results if result.tap == TAP)["expert"] == EXPERT
    report = check(*recorded, "wrong", REPLAY, load=loading(Decoder, summed_wrong))
    assert report.introduced == ("layers.1.experts_out",)


def test_a_port_without_it_is_judged_on_the_sum_and_the_report_says_so(recorded):
    report = check(*recorded, "plain", replace(REPLAY, precisions=("bfloat16",)), load=loading(Plain))
    assert report.verdict == "match", report.introduced
    assert TAP not in {result.tap for result in report.results}
    assert any(line.startswith("tap expert_out: the port does not declare") for line in report.not_covered)


def test_an_audit_names_a_bug_of_experts_all_the_same(recorded):
    found = audit(*recorded, AuditQuestion(("float64",), ("experts_shifted",), ("some",)))
    (result,) = next(one.results for one in found.mutants if one.id == "experts_shifted")
    assert (result.outcome, result.named, result.introduced) == ("caught", True, ("experts_out",))


def test_it_is_asked_for_by_a_corpus_or_by_a_glob_that_names_it(tmp_path, recorded):
    _, directory = recorded
    plain = replace(CORPUS, experts=False)
    for corpus, selected, there in (
        (CORPUS, EVERYTHING, True),
        (plain, Selected(("*",)), False),
        (plain, Selected(("*", "*.expert_out")), True),
    ):
        taps = taps_of(asked_of(directory, "cpu", corpus, selected).arch)
        assert (TAP in {tap.name for tap in at_level(taps, "ops", selected=selected)}) is there
    assert plain.digest != CORPUS.digest
    file = tmp_path / "corpus.toml"
    tables = '[[prompt]]\nname = "a"\ntext = "b"\nwhy = "c"\n'
    file.write_text(f"experts = true\n{tables}")
    assert load_corpus(file).experts
    file.write_text(f"experts = 1\n{tables}")
    with pytest.raises(CorpusError, match="true or false"):
        load_corpus(file)


def test_who_has_none_is_refused(recorded, tmp_path):
    with pytest.raises(CorpusError, match="this model has none"):
        asked_of(tiny.write(tmp_path, "llama", "llama3"), "cpu", CORPUS, EVERYTHING)

    class More(Decoder):
        also = ("probs",)

    with pytest.raises(PortError, match="more than there is to declare"):
        check(*recorded, "more", REPLAY, load=loading(More))
