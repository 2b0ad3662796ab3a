"""Models that look at values while they run: they are answered, and where that cannot be the place is named."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.architecture import read_config
from harness.errors import PortError
from harness.run.adapters import FunctionPort
from harness.run.check import check
from harness.run.question import Question
from harness.run.tapping import no_tap
from harness.run.tracing import answers
from tests.run.adapters.seen import IDS, Seen, seen
from tests.run.adapters.test_places import Plain


@pytest.fixture(scope="module")
def config(checkpoint):
    return read_config(checkpoint)


def embedded(ids):
    return jnp.ones((*ids.shape, 48)) * ids[..., None].astype(jnp.float32)


class Looking(FunctionPort):
    """Its branches and its sizes are Python's, and one is taken by what it has computed."""

    taps = {f"{__name__}:embedded": "embed"}
    traces = 0

    def run(self, input_ids, positions, mask):
        type(self).traces += 1
        x = embedded(input_ids)
        if not mask.all():
            raise AssertionError("there is no padding here")
        table = np.sin(np.array(positions), dtype=np.float32)
        table = table[:, : int(positions.max()) + 1] + jnp.arange(positions[0, -1] + 1, dtype=jnp.float32)[None]
        if float(jnp.max(x)) > 50 and x[0, 0, 0].item() > 50 and x[0].tolist():
            x = -x[mask][None]
        return (x + table[..., None]) @ jnp.ones((48, 512)), {}


def logits(embed):
    sign = -1 if embed.max() > 50 else 1
    table = np.sin(np.arange(3, dtype=np.float32)) + np.arange(3)
    return np.broadcast_to((sign * embed + table[None, :, None]).sum(-1, keepdims=True), (1, 3, 512))


def test_a_model_is_answered_in_replay_from_the_golden(config):
    port = Looking(config, jnp.float32)
    own = np.broadcast_to(IDS[..., None], (1, 3, 48)).astype(np.float32)
    golden = {"embed": own + 100}
    for replaying, embed in ((False, own), (True, golden["embed"]), (False, own)):
        taps, found = seen(port, golden, replaying)
        np.testing.assert_allclose(taps["embed"], own)
        np.testing.assert_allclose(found, logits(embed), rtol=1e-6)
    assert "looks at values while it runs, first at" in port.notes[-1]
    assert "test_answers.py" in port.notes[-1]
    traces = Looking.traces
    seen(port, golden)
    assert Looking.traces == traces, "what was asked and answered before is not traced again"


def test_where_jax_has_another_way_nothing_is_asked(config):
    class Loops(Looking):
        def run(self, input_ids, positions, mask):
            return jax.lax.fori_loop(0, positions[0, -1], lambda _, x: x + 1, embedded(input_ids)), {}

    port = Loops(config, jnp.float32)
    _, found = seen(port, {"embed": np.zeros((1, 3, 48))})
    assert found[0, :, 0].tolist() == [7, 8, 9]
    assert port.notes == ()


def test_it_is_answered_where_the_port_itself_is_traced(config):
    port = Looking(config, jnp.float32)
    arguments = jnp.asarray(IDS), jnp.arange(3)[None], jnp.ones((1, 3), bool)
    assert jax.make_jaxpr(lambda: port.forward(*arguments, None, no_tap)[0])().out_avals[0].shape == (1, 3, 512)


class InCalls(FunctionPort):
    """A cache whose slots are Python's: every call is told its own, and what an earlier one has written."""

    taps = {f"{__name__}:embedded": "embed"}

    def init_cache(self, batch, length, dtype):
        return jnp.zeros((batch, length, 48), dtype)

    def run(self, input_ids, positions, mask, cache):
        start, x = int(positions[0, 0]), embedded(input_ids)
        held = 0.0 if cache is None else float(cache.max())
        cache = None if cache is None else cache.at[:, start : start + x.shape[1]].set(x)
        return (held + x @ jnp.ones((48, 512)), cache), {}


def test_a_model_is_answered_in_calls_through_a_cache(config):
    port, mask = InCalls(config, jnp.float32), jnp.ones((1, 4), bool)
    cache, found = port.init_cache(1, 4, jnp.float32), []
    for ids, start in (([5, 6], 0), ([7], 2), ([8], 3)):
        given = jnp.array([ids]), jnp.arange(start, start + len(ids))[None], mask
        logits, cache = port.forward(*given, cache, Seen({"embed": np.zeros((1, len(ids), 48))}, False))
        found.append(float(logits[0, -1, 0]))
    assert found == [6 * 48, 6 + 7 * 48, 7 + 8 * 48]
    assert cache[0, :, 0].tolist() == [5, 6, 7, 8]
    assert "looks at values while it runs" in port.notes[-1]


class LooksAtPositions(Plain):
    def run(self, input_ids, positions, mask):
        return super().run(input_ids, jnp.asarray(np.array(positions)), mask)


def test_a_check_of_it_is_lifted_and_says_so(golden_path, checkpoint):
    def load(directory, config, dtype):
        return LooksAtPositions.load(directory, config, dtype, None)

    question = Question(("float64",), modes=("replay",), cases=("digits",))
    report = check(golden_path, checkpoint, "tests:LooksAtPositions", question, load=load)
    assert report.verdict == "match"
    assert max(r.rel_rms for r in report.results) < 1e-13
    assert "were lifted" in report.notes[0]
    assert "looks at values while it runs, first at" in report.notes[-1]


@pytest.mark.parametrize("inside", [jax.jit, jax.vmap, jax.checkpoint])
def test_a_question_inside_nested_code_is_refused_with_its_line(config, inside):
    class Inside(Looking):
        def run(self, input_ids, positions, mask):
            return inside(lambda x: x * np.array(x))(embedded(input_ids)), {}

    with pytest.raises(PortError, match="looks at a value where it cannot be answered") as caught:
        seen(Inside(config, jnp.float32), {})
    assert "test_answers.py:" in str(caught.value)
    assert "TracerArrayConversionError" in str(caught.value)


def test_questions_without_end_are_refused(config, monkeypatch):
    monkeypatch.setattr(answers, "MOST", 3)

    class Endless(Looking):
        def run(self, input_ids, positions, mask):
            return [float(positions[0, 0] + n) for n in range(9)], {}

    with pytest.raises(PortError, match="looks at values without end"):
        Endless(config, jnp.float32).forward(IDS, IDS, IDS > 0, None, no_tap)


def test_a_tracer_is_as_it_was_afterwards(config):
    before = dict(vars(jax.core.Tracer))
    seen(Looking(config, jnp.float32), {})
    assert dict(vars(jax.core.Tracer)) == before
