import pytest

from harness.results import AGREEMENT_MODES, TapResult
from harness.selecting import at_level
from harness.taps import recorded_inputs
from harness.verdict import breaks_contract, first_divergence, introduced, judge, overall, was_compared
from tests.small_decoder import decoder_taps

TAPS = at_level(decoder_taps(layers=2), "ops", cached=False)
ORDER = [tap.name for tap in TAPS]
GRAPHS = dict.fromkeys("ab", recorded_inputs(decoder_taps(layers=2), ORDER))


def results(mode, wrong=(), case="a", precision="float32", verdict="diverged", multiple=100.0):
    return [
        TapResult(case, precision, mode, name, verdict if name in wrong else "match", rms_multiple=multiple)
        for name in ORDER
    ]


def verdict_of(judged, mode, tap):
    return next(r.verdict for r in judged if (r.mode, r.tap) == (mode, tap))


DOWNSTREAM = ORDER[ORDER.index("layers.0.q_rope") :]


def test_replay_says_which_tap_is_introduced_and_the_rest_is_inherited():
    judged = judge([*results("forward", DOWNSTREAM), *results("replay", ["layers.0.q_rope"])], GRAPHS)
    assert introduced(judged, ORDER) == ("layers.0.q_rope",)
    assert verdict_of(judged, "forward", "layers.0.q_rope") == "introduced"
    assert verdict_of(judged, "forward", "layers.0.context") == "inherited"
    assert verdict_of(judged, "forward", "layers.0.q") == "match"


def test_a_second_bug_downstream_is_introduced_too():
    wrong = ["layers.0.q_rope", "layers.1.act"]
    judged = judge([*results("forward", DOWNSTREAM), *results("replay", wrong)], GRAPHS)
    assert introduced(judged, ORDER) == tuple(wrong)
    assert verdict_of(judged, "forward", "layers.1.act") == "introduced"


def test_without_replay_the_first_in_data_flow_is_introduced():
    judged = judge(results("forward", DOWNSTREAM), GRAPHS)
    assert introduced(judged, ORDER) == ("layers.0.q_rope", "layers.0.k_rope")
    assert verdict_of(judged, "forward", "layers.1.q") == "inherited"


def test_an_error_that_only_adds_up_is_inherited_from_nowhere_and_still_diverges():
    judged = judge([*results("forward", ["logits"]), *results("replay")], GRAPHS)
    assert introduced(judged, ORDER) == ()
    assert overall(judged) == "diverged"
    assert first_divergence(judged, ORDER).tap == "logits"


def test_a_difference_that_forward_sees_too_is_what_replay_says():
    judged = judge(
        [
            *results("forward", DOWNSTREAM),
            *results("replay", ["layers.0.q_rope"]),
            *results("prefill", DOWNSTREAM),
        ],
        GRAPHS,
    )
    assert introduced(judged, ORDER) == ("layers.0.q_rope",)
    assert verdict_of(judged, "prefill", "layers.0.q_rope") == "introduced"
    assert verdict_of(judged, "prefill", "layers.0.k_rope") == "inherited"


@pytest.mark.parametrize("mode", AGREEMENT_MODES)
def test_a_difference_that_forward_and_replay_do_not_see_is_introduced_where_the_data_flow_says(mode):
    judged = judge([*results("forward"), *results("replay"), *results(mode, DOWNSTREAM)], GRAPHS)
    assert introduced(judged, ORDER) == ("layers.0.q_rope", "layers.0.k_rope")
    assert verdict_of(judged, mode, "layers.1.q") == "inherited"
    assert overall(judged) == "diverged"


def test_an_input_that_a_mode_does_not_compare_is_looked_through():
    """A prompt has no cache: probabilities hang on the keys all the same."""
    graphs = {"a": {"layers.0.probs": ("layers.0.cache_k",), "layers.0.cache_k": ("layers.0.k_rope",)}}
    wrong = [TapResult("a", "float32", "alone", f"layers.0.{kind}", "diverged") for kind in ("k_rope", "probs")]
    assert [r.verdict for r in judge(wrong, graphs)] == ["introduced", "inherited"]


def test_nan_is_introduced_where_it_arises_and_inherited_downstream():
    judged = judge(
        [
            *results("forward", DOWNSTREAM, verdict="nonfinite"),
            *results("replay", ["layers.0.q_rope"], verdict="nonfinite"),
        ],
        GRAPHS,
    )
    assert introduced(judged, ORDER) == ("layers.0.q_rope",)
    assert verdict_of(judged, "replay", "layers.0.q_rope") == "nonfinite"
    assert verdict_of(judged, "forward", "logits") == "inherited"


def test_the_first_divergence_is_the_earliest_introduced_tap_in_its_clearest_case():
    judged = judge(
        [
            *results("replay", ["layers.1.act"], case="a"),
            *results("replay", ["layers.0.up"], case="a", multiple=50.0),
            *results("replay", ["layers.0.up"], case="b", multiple=500.0),
        ],
        GRAPHS,
    )
    first = first_divergence(judged, ORDER)
    assert (first.tap, first.case) == ("layers.0.up", "b")


def test_order_is_recording_order_not_alphabetical():
    many = [tap.name for tap in decoder_taps(layers=11)]
    wrong = [TapResult("a", "float32", "replay", n, "introduced") for n in ("layers.10.q", "layers.2.q")]
    assert introduced(wrong, many) == ("layers.2.q", "layers.10.q")
    assert first_divergence(wrong, many).tap == "layers.2.q"


def test_nothing_compared_is_not_a_pass():
    assert overall([]) == "diverged"
    assert overall(results("replay")) == "match"


def test_a_missing_tap_is_not_a_match():
    judged = judge(results("replay", ["layers.0.q"], verdict="missing"), GRAPHS)
    assert overall(judged) == "diverged"
    assert verdict_of(judged, "replay", "layers.0.q") == "missing"


WHOLE = {tap.name: tap.inputs for tap in decoder_taps(layers=2)}
STREAM = ("embed", "layers.0.resid_post", "layers.1.resid_post", "final_norm", "logits")
TWO = {"a": GRAPHS["a"], "shallow": recorded_inputs(decoder_taps(layers=2), STREAM), "only": {"logits": ()}}


def at(case, tap, verdict, mode="replay", **more):
    return TapResult(case, "float32", mode, tap, verdict, rms_multiple=100.0, **more)


def shallow(*wrong):
    return [at("shallow", name, "diverged" if name in wrong else "match") for name in STREAM]


def test_what_spans_a_whole_layer_is_inherited_where_another_case_says_which_operation_it_is():
    wrong = "layers.1.resid_post"
    judged = judge([*results("replay", ["layers.1.context"]), *shallow(wrong)], TWO, WHOLE)
    assert introduced(judged, ORDER) == ("layers.1.context",)
    elsewhere = judge([*results("replay", ["layers.0.context"]), *shallow(wrong)], TWO, WHOLE)
    assert introduced(elsewhere, ORDER) == ("layers.0.context", wrong)
    assert introduced(judge(shallow(wrong), TWO, WHOLE), ORDER) == (wrong,)


def test_logits_of_a_case_that_recorded_nothing_else_are_inherited_from_what_is_located():
    judged = judge([*results("replay", ["layers.0.q"]), at("only", "logits", "diverged")], TWO, WHOLE)
    assert introduced(judged, ORDER) == ("layers.0.q",)


def test_what_replay_does_not_replace_is_a_span_too():
    wrong = ["layers.0.probs", "layers.0.context"]
    assert introduced(judge(results("replay", wrong), GRAPHS, WHOLE), ORDER) == tuple(wrong)
    assert introduced(judge(results("replay", wrong), GRAPHS, WHOLE, {"probs"}), ORDER) == ("layers.0.probs",)


def test_no_cache_explains_what_a_case_without_one_shows():
    feeds = [at("a", name, "match") for name in ("layers.0.q_rope", "layers.0.k_rope")]
    both = [*feeds, at("a", "layers.0.probs", "diverged"), at("b", "layers.0.cache_k", "diverged", calls=(3, 1))]
    judged = judge(both, {"a": GRAPHS["a"], "b": {}}, WHOLE)
    assert introduced(judged, [tap.name for tap in decoder_taps(layers=2)]) == (
        "layers.0.cache_k",
        "layers.0.probs",
    )


def test_a_tap_of_a_wider_dtype_whose_values_match_misleads_nobody_and_breaks_the_contract_all_the_same():
    wide = at("a", "layers.0.attn_norm", "dtype", mode="forward", expected="bfloat16", found="float32")
    judged = judge([wide, at("a", "layers.0.q", "diverged", mode="forward")], GRAPHS, WHOLE)
    assert introduced(judged, ORDER) == ("layers.0.q",)
    assert breaks_contract(wide)
    assert was_compared(wide)
    assert not was_compared(TapResult("a", "float32", "forward", "layers.0.q", "dtype"))
    assert overall(judged) == "diverged"


def shared(recorded, wrong, modes=("forward", "replay")):
    """The verdicts of taps that were wrong, where the golden has these alone."""
    taps = {tap.name: tap.inputs for tap in decoder_taps(layers=2)}
    graphs = {"a": recorded_inputs(decoder_taps(layers=2), recorded)}
    raw = [
        TapResult("a", "float32", mode, name, "diverged" if name in wrong else "match")
        for mode in modes
        for name in recorded
    ]
    judged = judge(raw, graphs, taps, (), {"a": recorded})
    return introduced(judged, list(taps)), {r.verdict for r in judged if r.tap in wrong}


@pytest.mark.parametrize("modes", [("forward", "replay"), ("replay",), ("forward",)])
def test_what_may_come_through_a_tap_that_is_not_in_the_golden_is_not_introduced(modes):
    """A wrong attn_norm shows at q, k and v: they are fed by it, and by nothing else that is recorded."""
    of_first = ["layers.0.q", "layers.0.k", "layers.0.v"]
    assert shared(["embed", *of_first, "logits"], of_first, modes)[0] == ("layers.0.q",)
    assert shared(["embed", "layers.0.attn_norm", *of_first], of_first, modes)[0] == tuple(of_first)


def test_a_wrong_embedding_is_not_introduced_in_every_layer():
    """mlp_out of layer 1 is replayed on golden values of layer 0's, and on the port's own embedding."""
    recorded = ["layers.0.mlp_out", "layers.1.mlp_out", "logits"]
    found, verdicts = shared(recorded, recorded)
    assert found == ("layers.0.mlp_out",) and verdicts == {"introduced", "inherited"}
    assert shared(recorded, ["layers.1.mlp_out"])[0] == ("layers.1.mlp_out",)


def test_what_shares_nothing_is_introduced_each():
    recorded = ["embed", "layers.0.resid_post", "layers.1.resid_post", "logits"]
    assert shared(recorded, recorded[1:3])[0] == tuple(recorded[1:3])
