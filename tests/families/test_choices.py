"""Choices of experts, from a recorded golden to the report: ties pass and are pinned, bugs are introduced."""

from __future__ import annotations

import io

import numpy as np
import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

import jax.numpy as jnp
from rich.console import Console

from harness.architecture import architecture_of, read_config
from harness.choice import group_scores, margins
from harness.corpus import Corpus
from harness.entries import Batch, Decode, Prompt
from harness.record.recorder import record
from harness.report.agreement import agreement
from harness.report.choices import sentences
from harness.report.contract import broken_contract
from harness.report.diff_assembly import diff as diff_of
from harness.report.document import encode
from harness.report.pages.diff import choices
from harness.report.pairing import Candidate
from harness.report.reading import read_report
from harness.report.views import html, markdown, print_document, report_text
from harness.run.comparing import Judgement
from harness.run.generation import pinned_call
from harness.run.port import Declarations
from harness.run.references import OwnPrefill
from harness.run.source import GoldenSource
from harness.run.tapping import no_tap
from harness.store import open_golden
from harness.taps import DIMS
from harness.tolerances import limit
from tests.families import tiny
from tests.families.choices import checked

CORPUS = Corpus(
    (Prompt("one", "A", "one token"), Prompt("some", "1 2 3 45 678", "a few")),
    decodes=(Decode("steps", "a cached", "a step", steps=1),),
    batches=(Batch("left", ("one", "some"), "left", "pads"),),
)
SOME = ("some",)
ROUTING, LOGITS = "layers.1.routing", "layers.1.router_logits"  # the first layer is dense


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choices")
    made = {}
    for family, name in (("qwen3_moe", "plain"), ("glm4_moe", "groups")):
        checkpoint, golden = tiny.write(folder / family, family, name), folder / f"{family}.h5"
        record(checkpoint, "model", CORPUS, str(golden))
        made[family] = golden, checkpoint
    return made


def results(report, mode, tap=ROUTING):
    return {r.case: r for r in report.results if (r.mode, r.tap) == (mode, tap)}


def swapped(tokens, last=True):
    """The last expert that a token goes to exchanged with the next best; or with the worst, which is no tie."""

    def change(name, value, case):
        if name == ROUTING and case in tokens:
            for row, token in tokens[case]:
                weights = value[row, token]
                out = np.flatnonzero(weights)[weights[weights != 0].argmin()]
                away = OTHERS[case, row, token, last]
                weights[[out, away]] = weights[[away, out]]
        return value

    return change


OTHERS = {}


@pytest.fixture(scope="module", autouse=True)
def others(recorded):
    """The next best expert and the worst one of every token of the plain model."""
    with open_golden(recorded["qwen3_moe"][0]) as golden:
        for case in ("one", "some", "left"):
            scores, weights = golden.tap(case, LOGITS), golden.tap(case, ROUTING)
            for row, token in np.ndindex(scores.shape[:2]):
                left = np.where(weights[row, token] != 0, np.nan, scores[row, token])
                OTHERS[case, row, token, True] = int(np.nanargmax(left))
                OTHERS[case, row, token, False] = int(np.nanargmin(left))


def closest(golden_path):
    """The token of `some` at which the choice is the closest."""
    with open_golden(golden_path) as golden:
        experts = architecture_of(golden.manifest.model.config).experts
        return int(margins(experts, golden.tap("some", LOGITS))[0].argmin())


def test_the_goldens_own_choices_match_and_nothing_is_said(recorded):
    for golden in recorded.values():
        report, _ = checked(*golden, modes=("forward", "replay", "alone"))
        assert report.verdict == "match"
        assert sentences(report.results) == ()
        assert not any("pinned" in note for note in report.notes)
        assert results(report, "forward")["some"].choice.tokens == 12


def test_a_tie_passes_is_counted_and_is_pinned(recorded, tmp_path):
    golden, checkpoint = recorded["qwen3_moe"]
    token = closest(golden)
    report, port = checked(golden, checkpoint, swapped({"some": [(0, token)]}), cases=SOME)
    assert report.verdict == "match"
    found = results(report, "forward")["some"]
    assert (found.verdict, found.choice.ties, found.choice.wrong) == ("match", 1, 0)
    assert found.choice.tie.gap <= found.choice.tie.allowed
    # What goes on is the golden's choice at that token, and the port's own weights everywhere else.
    with open_golden(golden) as opened:
        truth = opened.tap("some", ROUTING)[0]
    assert np.array_equal(port.went_on["some", ROUTING, False][0] != 0, truth != 0)
    assert any(note.startswith("pinned: ") and "1 at bfloat16" in note for note in report.notes)
    (line, *_) = sentences(report.results)
    assert line.startswith("bfloat16 forward: 1 of ")
    text = " ".join(report_text(report, 200).split())
    assert "choices of experts bfloat16 forward: 1 of" in text and "the widest tie" in text
    assert "choices are ties" in markdown(report) and "choices are ties" in html(report)
    (tmp_path / "report.json").write_bytes(encode(report))
    assert read_report(tmp_path / "report.json") == report


def test_a_choice_beyond_the_noise_is_introduced_at_routing_and_pinned_too(recorded):
    golden, checkpoint = recorded["qwen3_moe"]
    report, port = checked(golden, checkpoint, swapped({"some": [(0, 3)]}, last=False), cases=SOME)
    assert report.introduced == (ROUTING,)
    found = results(report, "forward")["some"]
    assert (found.choice.wrong, found.choice.worst.position, found.since_call) == (1, 3, None)
    with open_golden(golden) as opened:
        truth = opened.tap("some", ROUTING)[0]
    assert np.array_equal(port.went_on["some", ROUTING, False][0] != 0, truth != 0)
    assert "token 3 goes to experts" in report_text(report, 200)


def test_rows_of_a_batch_are_judged_by_the_scores_of_their_prompts(recorded):
    golden, checkpoint = recorded["qwen3_moe"]
    for token, last, verdict in ((closest(golden), True, "match"), (3, False, "introduced")):
        changed = swapped({"left": [(1, token)]}, last)
        report, _ = checked(golden, checkpoint, changed, modes=("alone",), cases=("left",))
        found = results(report, "alone")["left"]
        assert (found.verdict, found.choice.tokens) == (verdict, 13)
        assert (found.choice.ties, found.choice.wrong) == ((1, 0) if last else (0, 1))
        assert report.verdict == ("match" if last else "diverged")
    assert any("row 1 (some) differs from its prompt recorded alone" in line for line in agreement(report))


def test_in_float64_a_tie_is_wrong_and_nothing_is_pinned(recorded):
    golden, checkpoint = recorded["qwen3_moe"]
    token = closest(golden)
    report, port = checked(golden, checkpoint, swapped({"some": [(0, token)]}), "float64", cases=SOME)
    assert report.introduced == (ROUTING,)
    with open_golden(golden) as opened:
        truth = opened.tap("some", ROUTING)[0]
    assert not np.array_equal(port.went_on["some", ROUTING, False][0] != 0, truth != 0)
    assert not any("pinned" in note for note in report.notes)


def test_where_every_token_is_a_tie_that_comparison_is_no_pass_and_no_failure(recorded, monkeypatch):
    golden, checkpoint = recorded["qwen3_moe"]
    with open_golden(golden) as opened:
        gap = float(
            margins(architecture_of(opened.manifest.model.config).experts, opened.tap("one", LOGITS))[0, 0]
        )
    monkeypatch.setattr("harness.run.choices.noise_floor", lambda own, size, unit: np.full(own.shape, gap))
    report, _ = checked(golden, checkpoint, swapped({"one": [(0, 0)]}), cases=("one",))
    assert {r.verdict for r in report.results if (r.case, r.tap) == ("one", ROUTING)} == {"tied"}
    assert report.verdict == "match"
    assert "2 tied" in report_text(report, 200)


def rolled(name, value, case):
    return np.roll(value, 1, -1) if name == ROUTING else value


def test_experts_off_by_one_are_wrong_at_routing_alone(recorded):
    for golden in recorded.values():
        report, _ = checked(*golden, rolled, "float32", cases=SOME)
        assert report.introduced == (ROUTING,)
        assert results(report, "replay")["some"].choice.wrong > 6


def test_groups_that_are_ignored_are_wrong_choices(recorded):
    golden, checkpoint = recorded["glm4_moe"]
    experts = architecture_of(read_config(checkpoint)).experts
    with open_golden(golden) as opened:
        scores = opened.tap("some", "layers.1.router_scores")[0]
    free = np.argsort(-scores, -1)[:, : experts.chosen]
    by_group = group_scores(experts, scores.reshape(*scores.shape[:-1], experts.groups, -1))[0]
    assert by_group.shape == (12, experts.groups)

    def ignoring(name, value, case):
        if name == ROUTING and case == "some":
            value = np.zeros_like(value)
            np.put_along_axis(value[0], free, np.float32(0.8), -1)
        return value

    report, _ = checked(golden, checkpoint, ignoring, "float32", cases=SOME)
    assert report.introduced == (ROUTING,)
    assert results(report, "replay")["some"].choice.wrong > 0


def test_a_softmax_after_the_choice_is_wrong_by_its_weights_and_not_by_its_choices(recorded):
    golden, checkpoint = recorded["glm4_moe"]

    def softmaxed(name, value, case):
        if name != ROUTING:
            return value
        weights = np.where(value != 0, np.exp(value), 0)
        return (weights / weights.sum(-1, keepdims=True)).astype(value.dtype)

    report, _ = checked(golden, checkpoint, softmaxed, "float32", cases=SOME)
    assert report.introduced == (ROUTING,)
    assert results(report, "replay")["some"].choice.others == 0


def limited(capacity):
    """No expert takes more than so many tokens of a batch, in their order, padding included."""

    def change(name, value, case):
        if name == ROUTING:
            flat = value.reshape(-1, value.shape[-1])
            flat[np.cumsum(flat != 0, axis=0) > capacity] = 0
        return value

    return change


def test_a_capacity_that_is_too_small_is_said_token_by_token(recorded):
    golden, checkpoint = recorded["qwen3_moe"]
    report, _ = checked(golden, checkpoint, limited(3), cases=SOME)
    found = results(report, "forward")["some"]
    assert (found.verdict, found.choice.ties, found.choice.wrong) == ("introduced", 0, 0)
    assert found.choice.dropped > 0
    drop = found.choice.drops[0]
    with open_golden(golden) as opened:
        truth = opened.tap("some", ROUTING)[0]
    assert drop.positions == tuple(np.flatnonzero(truth[:, drop.expert])[3:].tolist())
    text = " ".join(report_text(report, 200).split())
    assert f"by expert {drop.expert}: token" in text and "dropped" in text
    assert "dropped" in markdown(report) and "dropped at" in html(report)


def test_padding_that_takes_capacity_drops_tokens_of_the_batch_alone(recorded):
    golden, checkpoint = recorded["qwen3_moe"]
    with open_golden(golden) as opened:
        truth, real = opened.tap("left", ROUTING), opened.case("left").mask
    most = int((truth[real] != 0).sum(axis=0).max())
    padded = truth.copy()
    padded[~real] = truth[1, -1]  # what a router makes of padding: here all of it goes where one token goes

    def dispatched(name, value, case):
        if name == ROUTING and case == "left":
            value[~real] = padded[~real].astype(value.dtype)
        return limited(most)(name, value, case)

    report, _ = checked(golden, checkpoint, dispatched, modes=("forward", "replay", "alone"))
    assert report.introduced == (ROUTING,)
    assert {case for case, r in results(report, "forward").items() if r.verdict != "match"} == {"left"}
    assert results(report, "alone")["left"].choice.dropped > 0
    drop = results(report, "forward")["left"].choice.drops[0]
    assert f"by expert {drop.expert}: token" in report_text(report, 200)
    assert f"of row {drop.row}" in report_text(report, 200)


class Spoiled:
    """What follows from a choice that may be a tie is nonsense: at those tokens, or in all that comes after."""

    def __init__(self, tokens, *taps):
        self.tokens, self.taps = tokens, taps

    def __call__(self, name, value, case):
        if name in self.taps and case in self.tokens:
            value[:, self.tokens[case]] += 7
        return value


AFTER = ("layers.1.experts_out", "layers.1.mlp_out", "layers.1.resid_post", "final_norm", "logits")
HIDDEN = ({"without": ("routing",)}, {"recorded_only": ("routing",)})


@pytest.mark.parametrize("hidden", HIDDEN, ids=["without", "recorded only"])
def test_what_a_hidden_choice_may_have_changed_is_not_judged_in_forward(recorded, hidden):
    golden, checkpoint = recorded["qwen3_moe"]
    spoiled = Spoiled({"some": slice(None)}, *AFTER)
    report, _ = checked(golden, checkpoint, spoiled, modes=("forward",), **hidden)
    assert report.verdict == "match"
    judged = {r.tap for r in report.results if r.case == "some"}
    assert LOGITS in judged and not judged & {*AFTER}
    line = next(one for one in report.not_covered if one.startswith("bfloat16 in all modes but replay"))
    assert f"after {ROUTING}" in line and "`goldens port my_port:Port" in line and "some" in line
    assert not any("pinned" in note for note in report.notes)
    # In float32 none of these choices may be a tie: there everything is judged.
    report, _ = checked(golden, checkpoint, spoiled, "float32", modes=("forward",), **hidden)
    assert "layers.1.experts_out" in report.introduced
    assert not any("in all modes" in one for one in report.not_covered)


def test_a_check_in_which_a_hidden_choice_leaves_nothing_is_no_pass(recorded):
    golden, checkpoint = recorded["qwen3_moe"]
    others = tuple(kind for kind in DIMS if kind not in ("experts_out", "logits"))
    report, _ = checked(golden, checkpoint, modes=("forward",), cases=SOME, without=others)
    assert (report.results, report.verdict) == ((), "diverged")
    assert "nothing was compared" in str(broken_contract(report))


def test_in_replay_tokens_whose_hidden_choice_may_be_a_tie_are_left_out_and_the_others_judged(recorded):
    golden, checkpoint = recorded["qwen3_moe"]
    with open_golden(golden) as opened:
        gap = margins(architecture_of(opened.manifest.model.config).experts, opened.tap("some", LOGITS))[0]
    near, sure = (Spoiled({"some": [int(token)]}, AFTER[0]) for token in (gap.argmin(), gap.argmax()))
    right, _ = checked(golden, checkpoint, near, modes=("replay",), cases=SOME, without=("routing",))
    assert right.verdict == "match"
    assert results(right, "replay", AFTER[0])["some"].choice.unseen >= 1
    assert "left out, whose choice is not shown" in report_text(right, 200)
    wrong, _ = checked(golden, checkpoint, sure, modes=("replay",), cases=SOME, without=("routing",))
    assert wrong.introduced == (AFTER[0],)
    # A port that shows its choice has no such excuse.
    shown, _ = checked(golden, checkpoint, near, modes=("replay",), cases=SOME)
    assert shown.introduced == (AFTER[0],)


def test_the_ports_own_prefill_is_pinned_and_its_choices_are_judged_beside_those_of_the_calls(recorded):
    golden, _ = recorded["qwen3_moe"]
    with open_golden(golden) as opened:
        source, case = GoldenSource(opened, "bfloat16"), opened.manifest.case("steps")
        value = np.array(source.rounded("steps", ROUTING))
        other, far = value.copy(), value.copy()
        scores = opened.tap("steps", LOGITS)
        token = int(margins(source.experts, scores)[0].argmin())
        out = np.flatnonzero(value[0, token])[scores[0, token][value[0, token] != 0].argmin()]
        left = np.where(value[0, token] != 0, np.nan, scores[0, token])
        for array, away in ((other, np.nanargmax(left)), (far, np.nanargmin(left))):
            array[0, token, [out, away]] = array[0, token, [away, out]]
        for own, calls, verdict in ((other, value, "match"), (value, other, "match"), (far, value, "diverged")):
            prefill = OwnPrefill(source, case, Judgement(limit("bfloat16"), Declarations()))
            assert np.array_equal(prefill(ROUTING, jnp.asarray(own)), value)
            assert np.array_equal(prefill.goldens("layers.1")["routing"], value)
            found = prefill.result(source.taps[ROUTING], calls, "bfloat16")
            assert (found.verdict, found.choice.ties) == (verdict, verdict == "match")
        # Writing on by itself a port is pinned call by call.
        tap = pinned_call(source, case, Declarations(), slice(token, token + 1))
        assert np.array_equal(tap(ROUTING, jnp.asarray(other[:, token : token + 1])), value[:, token : token + 1])
        assert pinned_call(source, case, Declarations(without=("routing",)), slice(1)) is no_tap
        assert pinned_call(GoldenSource(opened, "float64"), case, Declarations(), slice(1)) is no_tap


def test_of_what_follows_from_experts_roundings_are_bounded(recorded):
    for golden, checkpoint in recorded.values():
        for tap in ("layers.1.mlp_out", LOGITS):
            report, _ = checked(golden, checkpoint, Spoiled({"some": [2]}, tap), "float32", cases=SOME)
            assert report.introduced == (tap,)
            assert max(r.beyond_rounding or 0 for r in report.results) > 100


def test_a_diff_says_what_became_of_choices(recorded):
    golden, checkpoint = recorded["qwen3_moe"]
    before, _ = checked(golden, checkpoint, limited(3), cases=SOME)
    after, _ = checked(golden, checkpoint, swapped({"some": [(0, closest(golden))]}), cases=SOME)
    diff = diff_of(Candidate("before", before), Candidate("after", after))
    assert diff.verdict == "better"
    assert [change.status for change in diff.changes if change.tap == ROUTING] == ["fixed", "fixed"]
    (line, *_) = choices(diff)
    dropped = results(before, "forward")["some"].choice.dropped
    assert line == f"bfloat16 forward: ties 0 to 1, dropped {dropped} to 0, of 12 choices"
    assert line in markdown(diff) and line in html(diff)
    console = Console(file=io.StringIO(), width=200)
    print_document(diff, console)
    assert line in console.file.getvalue()
