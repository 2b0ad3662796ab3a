from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from harness.errors import PortError
from harness.run.tapping import Tapped, going_on, handed_on, no_tap

KINDS = frozenset({"double", "square", "unused"})


def model(tap, x):
    doubled = tap("double", 2 * x)
    return tap("square", doubled * doubled)


class Recorder:
    """A session without a golden file."""

    def __init__(self, goldens, replaying):
        self._goldens, self.replaying, self.seen = goldens, replaying, {}

    def __call__(self, name, value):
        raise AssertionError("the jitted function must not call the session")

    def goldens(self, stage):
        return self._goldens

    def judge_by(self, rounding):
        raise AssertionError("nothing is lifted here")

    def absorb(self, stage, recorded):
        self.seen = {f"{stage}.{kind}": np.asarray(value).tolist() for kind, value in recorded.items()}


X = jnp.array([1.0, 3.0])
GOLDENS = {"double": jnp.array([10.0, 20.0]), "square": jnp.array([0.0, 0.0])}


def test_outside_a_check_a_tapped_function_is_the_function():
    assert Tapped(model, KINDS)(no_tap, "s", X).tolist() == [4.0, 36.0]


def test_forward_records_the_ports_own_values():
    session = Recorder(GOLDENS, replaying=False)
    assert Tapped(model, KINDS)(session, "s", X).tolist() == [4.0, 36.0]
    assert session.seen == {"s.double": [2.0, 6.0], "s.square": [4.0, 36.0]}


def test_replay_records_what_was_computed_from_golden_inputs_and_hands_on_the_golden():
    session = Recorder(GOLDENS, replaying=True)
    assert Tapped(model, KINDS)(session, "s", X).tolist() == [0.0, 0.0]
    assert session.seen == {"s.double": [2.0, 6.0], "s.square": [100.0, 400.0]}


def test_a_golden_replaces_even_a_nan():
    session = Recorder({"double": jnp.ones(2), "square": jnp.ones(2)}, replaying=True)
    Tapped(model, KINDS)(session, "s", jnp.array([jnp.nan, jnp.inf]))
    assert session.seen["s.square"] == [1.0, 1.0]


def test_a_tap_that_was_not_recorded_is_neither_computed_out_nor_reported():
    session = Recorder({"square": GOLDENS["square"]}, replaying=False)
    Tapped(model, KINDS)(session, "s", X)
    assert list(session.seen) == ["s.square"]


def test_an_invented_tap_is_handed_to_the_session():
    session = Recorder(GOLDENS, replaying=False)
    Tapped(lambda tap, x: tap("cube", model(tap, x)), KINDS)(session, "s", X)
    assert "s.cube" in session.seen


def test_another_shape_is_handed_to_the_session_and_not_broadcast():
    session = Recorder({"double": jnp.ones((2, 2)), "square": jnp.ones(2)}, replaying=True)
    Tapped(model, KINDS)(session, "s", X)
    assert session.seen == {"s.double": [2.0, 6.0], "s.square": [4.0, 36.0]}


def test_tapping_twice_is_refused():
    session = Recorder(GOLDENS, replaying=False)
    with pytest.raises(PortError, match="tapped one name twice"):
        Tapped(lambda tap, x: model(tap, model(tap, x)), KINDS)(session, "s", X)


def test_both_modes_and_all_stages_are_one_compilation():
    traces = []

    def counted(tap, x):
        traces.append(x.shape)
        return model(tap, x)

    tapped = Tapped(counted, KINDS)
    for stage in ("a", "b"):
        for replaying in (False, True):
            tapped(Recorder(GOLDENS, replaying), stage, X)
    assert traces == [(2,)]


def test_on_a_mesh_with_explicit_axes_the_golden_takes_the_layout_of_what_it_replaces():
    mesh = jax.make_mesh((1,), ("model",), axis_types=(AxisType.Explicit,))
    x = jax.device_put(X, NamedSharding(mesh, PartitionSpec("model")))
    for replaying, expected in ((True, [0.0, 0.0]), (False, [4.0, 36.0])):
        session = Recorder(GOLDENS, replaying)
        out = Tapped(model, KINDS)(session, "s", x)
        assert out.tolist() == expected
        assert out.sharding == x.sharding
        assert session.seen["s.double"] == [2.0, 6.0]


def test_outside_a_trace_the_golden_is_put_where_the_value_was():
    mesh = jax.make_mesh((1,), ("model",), axis_types=(AxisType.Explicit,))
    x = jax.device_put(X, NamedSharding(mesh, PartitionSpec("model")))
    handed = handed_on("layers.0.act", np.array([7.0, np.nan]), x)
    assert handed.sharding == x.sharding
    assert handed.tolist() == [7.0, 3.0]


ROUTING = np.array([[[0.7, 0.3, 0, 0], [0.6, 0, 0.4, 0], [np.nan] * 4]], np.float32)
OWN = np.array([[[0.71, 0.29, 0, 0], [0.6, 0.4, 0, 0], [0, 0, 0.5, 0.5]]], np.float32)
PINNED = [[[0.71, 0.29, 0, 0], [0.6, 0, 0.4, 0], [0, 0, 0.5, 0.5]]]  # the second token's alone


def routed(tap, weights):
    return tap("routing", weights) + 0


@pytest.mark.parametrize("golden, goes_on", [(ROUTING, PINNED), (np.full_like(ROUTING, np.nan), OWN)])
def test_on_its_own_values_a_token_that_goes_to_other_experts_is_pinned(golden, goes_on):
    session = Recorder({"routing": golden}, replaying=False)
    found = Tapped(routed, frozenset({"routing"}))(session, "s", jnp.asarray(OWN))
    assert np.array_equal(found, np.float32(goes_on))
    assert session.seen == {"s.routing": OWN.tolist()}  # what is compared is the port's own
    assert np.array_equal(going_on("s.routing", golden, jnp.asarray(OWN), replaying=False), np.float32(goes_on))


def test_replay_replaces_the_weights_of_all_tokens_that_the_golden_has():
    session = Recorder({"routing": ROUTING}, replaying=True)
    found = Tapped(routed, frozenset({"routing"}))(session, "s", jnp.asarray(OWN))
    assert np.array_equal(found, np.where(np.isnan(ROUTING), OWN, ROUTING))
    assert np.array_equal(going_on("s.routing", ROUTING, jnp.asarray(OWN), replaying=True), found)


def test_weights_of_another_form_than_the_goldens_are_left_for_the_session_to_refuse():
    session = Recorder({"routing": ROUTING}, replaying=False)
    few = jnp.asarray(OWN[..., :2])
    assert np.array_equal(Tapped(routed, frozenset({"routing"}))(session, "s", few), few)
    assert np.array_equal(going_on("s.routing", ROUTING, few, replaying=False), few)
