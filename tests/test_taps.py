from harness.families.options import Norm
from harness.selecting import at_level
from harness.taps import recorded_inputs
from tests.small_decoder import decoder_taps

NORM = Norm(1e-6)


def test_order_is_data_flow_order_not_alphabetical():
    names = [tap.name for tap in decoder_taps(layers=12)]
    assert names.index("layers.2.resid_post") < names.index("layers.10.attn_norm")
    assert names[0] == "embed"
    assert names[-2:] == ["final_norm", "logits"]


def test_every_input_of_a_tap_comes_before_it():
    seen: set[str] = set()
    for tap in decoder_taps(layers=3, qk_norm=NORM):
        assert set(tap.inputs) <= seen, tap
        seen.add(tap.name)


def test_the_residual_stream_feeds_the_next_layer_twice():
    taps = {tap.name: tap for tap in decoder_taps(layers=2)}
    assert taps["layers.0.attn_norm"].inputs == ("embed",)
    assert taps["layers.1.attn_norm"].inputs == ("layers.0.resid_post",)
    assert taps["layers.1.resid_mid"].inputs == ("layers.0.resid_post", "layers.1.attn_out")


def test_qk_norm_adds_names_and_takes_the_place_of_q_and_k():
    taps = {tap.name: tap for tap in decoder_taps(layers=1, qk_norm=NORM)}
    assert taps["layers.0.q_rope"].inputs == ("layers.0.q_norm",)
    assert taps["layers.0.k_norm"].inputs == ("layers.0.k",)
    assert "layers.0.q_norm" not in {tap.name for tap in decoder_taps(layers=1)}


def test_a_name_splits_into_stage_and_kind():
    taps = {tap.name: tap for tap in decoder_taps(layers=11)}
    assert (taps["layers.10.q_rope"].stage, taps["layers.10.q_rope"].kind) == ("layers.10", "q_rope")
    assert (taps["logits"].stage, taps["logits"].kind) == ("", "logits")


def test_shapes_follow_the_named_dimensions():
    sizes = {"batch": 2, "position": 5, "key": 5, "head": 6, "kv_head": 3, "head_dim": 8}
    taps = {tap.kind: tap for tap in decoder_taps(layers=1)}
    assert taps["k"].shape(sizes) == (2, 5, 3, 8)
    assert taps["probs"].shape(sizes) == (2, 6, 5, 5)
    assert taps["probs"].position_axis == 2


def test_levels_nest():
    taps = decoder_taps(layers=2)
    logits, layers, ops = ([tap.name for tap in at_level(taps, level)] for level in ("logits", "layers", "ops"))
    assert logits == ["logits"]
    assert layers == ["embed", "layers.0.resid_post", "layers.1.resid_post", "final_norm", "logits"]
    assert ops == [tap.name for tap in taps]


def test_what_is_not_recorded_is_followed_back_to_what_is():
    taps = decoder_taps(layers=2)
    names = [tap.name for tap in taps]
    everything = recorded_inputs(taps, names)
    assert everything == {tap.name: tap.inputs for tap in taps}
    layers = recorded_inputs(taps, [tap.name for tap in at_level(taps, "layers")])
    assert layers["layers.1.resid_post"] == ("layers.0.resid_post",)
    uncached = [tap.name for tap in at_level(taps, "ops", cached=False)]
    assert recorded_inputs(taps, uncached)["layers.0.probs"] == ("layers.0.q_rope", "layers.0.k_rope")
    without_probs = recorded_inputs(taps, [name for name in uncached if not name.endswith("probs")])
    assert set(without_probs["layers.0.context"]) == {"layers.0.q_rope", "layers.0.k_rope", "layers.0.v"}
    assert recorded_inputs(taps, ["logits"]) == {"logits": ()}
