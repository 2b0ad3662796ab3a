from __future__ import annotations

from dataclasses import replace

from harness.report.findings import findings, worst_first
from harness.report.views import report_text
from harness.report.wording import title
from tests.report.samples import build, result
from tests.small_decoder import decoder_taps

COARSE = (
    result("embed", case="shallow"),
    result("layers.0.resid_post", verdict="introduced", multiple=1e9, case="shallow"),
)


def test_a_tap_whose_inputs_were_not_compared_names_no_operation():
    (found,) = findings(build(*COARSE))
    assert found.since == ("embed",)
    (alone,) = findings(build(result("logits", verdict="introduced", multiple=50.0)))
    assert alone.since == ("the token ids",)


def test_where_one_case_compared_the_inputs_the_operation_is_named():
    deep = (
        result("layers.0.resid_mid"),
        result("layers.0.mlp_out"),
        result("layers.0.resid_post", verdict="introduced", multiple=50.0),
    )
    (found,) = findings(build(*COARSE, *deep))
    assert found.since == ()
    assert found.worst.case == "code"


def test_what_names_no_operation_comes_last_even_where_it_is_the_worst():
    report = build(*COARSE, result("embed"), result("layers.0.attn_norm", verdict="introduced", multiple=50.0))
    for order in (findings, worst_first):
        assert [f.kind for f in order(report)] == ["attn_norm", "resid_post"]


def test_worst_first_is_by_how_far_beyond_the_limit():
    report = build(
        *(result(name) for name in ("embed", "layers.0.attn_norm", "layers.0.mlp_norm")),
        result("layers.0.q", verdict="introduced", multiple=10.0),
        result("layers.0.up", verdict="introduced", multiple=99.0),
    )
    assert [f.kind for f in findings(report)] == ["q", "up"]
    assert [f.kind for f in worst_first(report)] == ["up", "q"]


def test_position_0_is_not_called_clean_where_a_single_token_is_wrong():
    feeds = (result("embed"), result("embed", case="hello", profile=(1.0,)))
    wrong = result("layers.0.attn_norm", verdict="introduced", multiple=50.0, profile=(1.0, 50.0))
    single = result("layers.0.attn_norm", verdict="introduced", multiple=50.0, case="hello", profile=(50.0,))
    assert "position 0 is clean in every case" in findings(build(*feeds, wrong))[0].evidence
    assert not any("clean" in sentence for sentence in findings(build(*feeds, wrong, single))[0].evidence)


def test_single_tokens_that_compared_more_are_no_evidence_for_a_tap_that_names_no_operation():
    single = (
        result("layers.0.resid_mid", case="hello", profile=(1.0,)),
        result("layers.0.mlp_out", case="hello", profile=(1.0,)),
        result("layers.0.resid_post", case="hello", profile=(1.0,)),
    )
    (found,) = findings(build(*COARSE, *single))
    assert not any("single-token" in sentence for sentence in found.evidence)


def test_in_a_case_of_one_call_no_cache_comes_before_the_probabilities():
    feeds = (result("layers.0.q_rope"), result("layers.0.k_rope"))
    wrong = result("layers.0.probs", verdict="introduced", multiple=50.0)
    taps = {tap.name: tap.inputs for tap in decoder_taps(layers=2)}
    (found,) = findings(replace(build(*feeds, wrong), taps=taps))
    assert found.since == ()
    stepwise = [replace(one, calls=(3, 1)) for one in (*feeds, wrong)]
    (found,) = findings(replace(build(*stepwise), taps=taps))
    assert found.since == ("layers.0.q_rope", "layers.0.k_rope")


def test_what_no_replaced_tap_precedes_is_called_not_located():
    report = build(result("logits", verdict="introduced", multiple=50.0))
    (found,) = findings(report)
    assert not found.located
    assert title(found) == "not located, shows at"
    assert "wrong even on golden inputs" not in report_text(report, 200)
    (layer,) = findings(build(*COARSE))
    assert layer.located


def test_what_could_not_be_compared_is_no_input_that_was():
    feeds = replace(result("layers.0.attn_norm", verdict="missing"), rms_multiple=None)
    (found,) = findings(build(result("embed"), feeds, result("layers.0.q", verdict="introduced", multiple=50.0)))
    assert found.since == ("embed",)


def test_what_could_not_be_compared_is_never_evidence_of_innocence():
    downstream = result("layers.0.attn_out", mode="forward", verdict="inherited", multiple=50.0)
    unknown = replace(result("layers.0.context", verdict="dtype"), rms_multiple=None, expected="x", found="y")
    text = report_text(build(downstream, unknown), 200)
    assert "no operation is wrong" not in text
    assert "not located: 1 tap beyond" in text
    assert "layers.0.context" in text.partition("not located")[2]
    assert "no operation is wrong" in report_text(build(downstream), 200)
