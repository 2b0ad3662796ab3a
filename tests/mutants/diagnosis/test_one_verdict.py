"""A diagnosis says what the check says: it chooses cases that it can replay, and passes nothing it did not see."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import pytest
from rich.console import Console

from harness import embedded
from harness.mutants.diagnosis.diagnose import diagnose
from harness.mutants.eager import Eager
from harness.report.views import print_document
from harness.run.arithmetic import one_by_one
from harness.run.check import Checker
from harness.run.decoder import Decoder
from harness.run.operations import OPERATIONS, rotate
from harness.run.question import BOTH, Question
from tests.mutants.diagnosis.test_diagnose import Hiding

WINDOW = embedded.directory() / "qwen2-window.h5"
FULL = {"use_sliding_window": False, "layer_types": ["full_attention"] * 3}
INSIDE = ("q", "k", "v", "q_rope", "k_rope", "probs")


def diagnosis(load, golden, *precisions, cases=()):
    with Checker(
        golden, None, "port", Question(precisions, modes=BOTH, cases=cases), load=load, inspect=False
    ) as checker:
        return diagnose(checker, "port")


def printed(found):
    out = io.StringIO()
    print_document(found, Console(file=out, width=120, color_system=None))
    return out.getvalue()


def decoder(directory, config, dtype, **operations):
    """The built-in decoder, its operations run one by one, some of them others."""
    return Eager(Decoder.load(directory, config, dtype, operations=replace(one_by_one(OPERATIONS), **operations)))


def without_windows(directory, config, dtype):
    """A port that exposes nothing inside attention, has no cache and knows no windows, as Tunix's Qwen2."""
    return Hiding(decoder(directory, {**config, **FULL}, dtype), INSIDE)


def test_cases_are_chosen_that_the_port_can_replay():
    found = diagnosis(without_windows, WINDOW, "float32")
    assert "far-beyond" not in found.cases  # keys and values between the kept positions are not the golden's
    assert found.unexplained == ()
    (operation,) = found.operations
    assert operation.taps == ("layers.1.context", "layers.2.context")
    # The one case that can be replayed is a token longer than the window: one key too many is all of them.
    assert [s.mutants for s in operation.named] == [("window_missing",), ("window_off_by_one_wider",)]
    assert "every operation is right" not in printed(found)


def test_what_is_wrong_in_no_case_that_can_be_replayed_is_not_called_right():
    found = diagnosis(without_windows, WINDOW, "float32", cases=("far-beyond", "as-long"))
    assert found.verdict == "diverged"
    assert found.operations == ()
    assert found.unexplained == ("layers.1.context",)
    said = printed(found)
    assert "layers.1.context: wrong, but not where it was replayed here" in said
    assert "every operation is right" not in said


def test_a_pass_says_at_which_precisions_and_what_was_not_covered(golden_path):
    found = diagnosis(Decoder.load, golden_path, "float32", cases=("digits",))
    said = printed(found)
    assert "PASS  nothing to diagnose: forward and replay match at float32" in said
    assert "not covered\n  precision float64: not asked for" in said


def table_of_numpy(turned, x, angles):
    """Tables that are made in numpy's float32, for a wrong rotation or a right one, at any dtype."""
    return turned(x, angles.astype(jnp.float32).astype(angles.dtype))


def mismatched(x, angles):
    cos, sin = (jnp.repeat(f(angles).astype(x.dtype)[:, :, None], 2, axis=-1) for f in (jnp.cos, jnp.sin))
    first, second = jnp.split(x, 2, axis=-1)
    return x * cos + jnp.concatenate([-second, first], axis=-1) * sin


@pytest.mark.parametrize(("turned", "named"), [(mismatched, "rope_table_mismatch"), (rotate, None)])
def test_a_rounding_to_float32_keeps_no_bug_from_its_name(golden_path, turned, named):
    """In float64 that rounding is a thousand limits, and no hypothesis has it: float32 is looked at as well."""
    turn = partial(table_of_numpy, turned)
    load = partial(decoder, rotate_q=turn, rotate_k=turn)
    found = diagnosis(load, golden_path, "float64", "float32", cases=("one-to-five",))
    (operation,) = found.operations
    assert found.precision == "float64"
    if named is None:
        assert operation.named == ()  # right in float32, and what is hard-coded is said
        assert any("float32 is hard-coded there" in fact.text for fact in found.facts)
    else:
        assert [s.mutants for s in operation.named] == [(named,)]
        assert operation.precision == "float32"
        assert "to the last bit" in printed(found)


def test_what_could_be_compared_is_diagnosed_beside_what_could_not(golden_path):
    class Wide:
        """Logits of another dtype, and a wrong rotation."""

        def __init__(self, port):
            self._port = port

        def forward(self, *args):
            logits, cache = self._port.forward(*args)
            return logits.astype(jnp.bfloat16), cache

    load = lambda *args: Wide(decoder(*args, rotate_q=mismatched, rotate_k=mismatched))  # noqa: E731
    found = diagnosis(load, golden_path, "float32", cases=("hello", "one-to-five"))
    (operation,) = found.operations
    assert [s.mutants for s in operation.named] == [("rope_table_mismatch",)]
    assert any("logits could not be compared: dtype" in fact.text for fact in found.facts)
