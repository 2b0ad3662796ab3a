"""A check that mostly compiles small programs says so, and any other says nothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.run.check import check
from harness.run.padding import EVENT, LEAST_SECONDS, MOST_A_SHAPE, Compilations
from harness.run.port import Call
from harness.run.question import Question
from harness.run.tapping import no_tap
from tests.run.ports import Wrapped


def calls(*lengths):
    return [[Call(np.zeros((1, n)), None, np.zeros((1, n)), None, no_tap)] for n in lengths]


def compiled(programs, seconds):
    """As JAX tells it."""
    for _ in range(programs):
        jax.monitoring.record_event_duration_secs(EVENT, seconds / programs)


def test_many_programs_for_few_shapes_that_take_long_are_noted():
    counted = Compilations()
    compiled(MOST_A_SHAPE * 2 + 1, LEAST_SECONDS + 1)
    (note,) = counted.notes(calls(1, 2, 2))
    assert f"compiling took {LEAST_SECONDS + 1:.0f} of 0 s: 21 programs for calls of 2 shapes" in note
    assert "Tapped" in note


@pytest.mark.parametrize(
    ("programs", "seconds"), [(MOST_A_SHAPE * 2, 10 * LEAST_SECONDS), (1000, 0.9 * LEAST_SECONDS)]
)
def test_few_programs_and_short_times_are_not(programs, seconds):
    counted = Compilations()
    compiled(programs, seconds)
    assert counted.notes(calls(1, 2)) == ()


def test_a_check_that_does_something_else_most_of_the_time_has_no_note(monkeypatch):
    counted = Compilations()
    compiled(1000, LEAST_SECONDS + 1)
    monkeypatch.setattr("time.monotonic", lambda at=counted._start + 3 * LEAST_SECONDS: at)
    assert counted.notes(calls(1)) == ()


def test_the_report_has_the_note(golden_path, checkpoint):
    class Slow(Wrapped):
        def forward(self, *arguments):
            compiled(MOST_A_SHAPE + 1, LEAST_SECONDS + 1)
            return super().forward(*arguments)

    def load(directory, config, dtype):
        return Slow.load(directory, config, dtype, None)

    question = Question(("float32",), modes=("forward",), cases=("hello",))
    (note,) = check(golden_path, checkpoint, "slow", question, load=load).notes
    assert "for calls of one shape" in note


def test_what_jax_compiles_is_counted():
    counted = Compilations()
    before = counted._total[0]
    jax.jit(lambda x: x + 1009)(jnp.ones(11))
    assert counted._total[0] > before
