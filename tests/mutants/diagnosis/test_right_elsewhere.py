"""A name survives what the port does right: other cases, other layers, other calls. And a right port gets none."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from harness import embedded
from harness.architecture import architecture_of, read_config
from harness.mutants.diagnosis.diagnose import diagnose
from harness.mutants.diagnosis.prediction import Predictor
from harness.mutants.diagnosis.search import Search
from harness.run.check import Checker
from harness.run.operations import NO_WINDOW, allowed, context, scores
from harness.run.precision import in_force
from harness.run.question import Question
from harness.run.source import GoldenSource
from harness.store import open_golden
from tests.mutants.diagnosis.test_one_verdict import decoder
from tests.mutants.diagnosis.test_parts import stage
from tests.second_port.bugs import Bug
from tests.second_port.parts import PARTS

WINDOW = embedded.directory() / "qwen2-window.h5"
QUESTION = Question(precisions=("float32",), modes=("replay",))
FEW = replace(QUESTION, cases=("one-beyond", "far-beyond", "left"))
EVERY_SORT = replace(QUESTION, cases=("far-beyond", "left", "across", "chunks"))


def port(**operations):
    """The built-in decoder with operations that are wrong somewhere."""
    return partial(decoder, **operations)


def diagnosis(load, golden=WINDOW, question=QUESTION):
    with Checker(golden, None, "elsewhere", question, load=load, inspect=False) as checker:
        return diagnose(checker, "elsewhere")


def only(found):
    (operation,) = found.operations
    return operation


def without_padding(mask, slots, window):
    """The window is dropped where a prompt has no padding in front."""
    is_prompt = mask.shape[1] == len(slots)
    return allowed(mask, slots, jnp.where(is_prompt & mask[:, 0].all(), NO_WINDOW, window))


def chunk_sees_all(mask, slots, window):
    seen = allowed(mask, slots, window)
    late = (len(slots) > 1) & (slots[0] > 0)
    return jnp.where(late, jnp.broadcast_to(mask[:, None, None, :], seen.shape), seen)


def test_a_bug_in_calls_of_one_sort_is_named_with_them():
    (named,) = only(diagnosis(port(allowed=without_padding), question=EVERY_SORT)).named
    assert named.mutants == ("window_missing",)
    assert named.remark == "in prompts only: in other calls the port is right"


def test_what_the_config_switches_on_is_not_called_switched_off():
    every = {"layer_types": ["sliding_attention"] * 3, "max_window_layers": None}
    load = lambda directory, config, dtype: port()(directory, {**config, **every}, dtype)  # noqa: E731
    operation = only(diagnosis(load, question=FEW))
    assert operation.taps == ("layers.0.probs",)
    assert [s.mutants for s in operation.named] == [("window_in_every_layer",)]
    assert operation.named[0].remark is None


def test_a_bug_of_all_layers_that_have_a_window_is_not_called_narrower():
    (named,) = only(diagnosis(port(allowed=lambda m, s, w: allowed(m, s, w + 1)), question=EVERY_SORT)).named
    assert named.mutants == ("window_off_by_one_wider",)
    assert named.remark is None


def test_a_chunk_that_sees_everything_is_found_where_prompts_are_right():
    operation = only(diagnosis(port(allowed=chunk_sees_all), question=EVERY_SORT))
    assert ("chunk_not_causal",) in [s.mutants for s in operation.named]
    assert all(s.remark == "in chunks only: in other calls the port is right" for s in operation.named)


def test_two_bugs_at_one_operation_are_named_together():
    def halved(q, k):
        return scores(*(jnp.broadcast_to(x[:, :, :1], x.shape) for x in (q, k))) * q.shape[-1] ** 0.5 * 0.3

    def of_first(probs, v):
        return context(probs, jnp.broadcast_to(v[:, :, :1], v.shape))

    operation = only(diagnosis(port(scores=halved, context=of_first), question=FEW))
    assert set(operation.kinds) == {"probs", "context"}
    (named,) = operation.named
    assert set(named.mutants) == {"attention_first_head_only", "scale_missing"}
    assert "0.3 q . k" in named.wrong


def test_an_ignored_padding_mask_is_named_where_keys_at_padding_are_the_ports_own(golden_path):
    """What is at padding is no golden: whatever the port embeds there goes on."""
    second = Bug("ignored", None, {"visible": lambda mask, at: PARTS.visible(jnp.ones_like(mask), at)})
    question = replace(QUESTION, cases=("one-to-five", "batch-left"))
    with Checker(golden_path, None, "ignored", question, load=second.load, inspect=False) as checker:
        operation = only(diagnose(checker, "ignored"))
    assert [s.mutants for s in operation.named] == [("padding_seen",)]
    assert operation.named[0].remark is None


@pytest.fixture(scope="module")
def at_odds(golden_path):
    """A search in a replay whose golden is not what config and checkpoint compute; the port is right."""
    checkpoint = embedded.directory() / "qwen2-tiny"
    config = read_config(checkpoint)
    with open_golden(golden_path) as golden:
        source = GoldenSource(golden, "float64")
        predictor = Predictor(source, checkpoint, config, frozenset(tap.kind for tap in source.taps.values()))
        replay = stage(predictor, "layers.1")
        seen = replay.taps["probs"]
        other = replace(seen, compared=replace(seen.compared, truth=np.roll(seen.truth, 1, axis=1)))
        replay = replace(replay, taps={**replay.taps, "probs": other})
        layers = {"probs": frozenset({1})}
        with in_force("float64"):
            yield Search(predictor, [replay], layers, architecture_of(config).layers)


def test_what_changes_nothing_does_not_name_a_right_port(at_odds):
    with in_force("float64"):
        answer = at_odds.explain("probs")
    assert answer.built_in
    assert answer.named == answer.others == ()


def test_a_name_that_is_not_given_has_its_reason():
    """Wrong in one layer and one case alone, at random: nothing is that, and what is near says why it is not."""

    def in_long_prompts(mask, slots, window):
        return allowed(mask, slots, jnp.where(mask.sum() > 20, NO_WINDOW, window))

    operation = only(diagnosis(port(allowed=in_long_prompts), question=FEW))
    assert operation.named == ()
    near = next(s for s in operation.others if s.mutants == ("window_missing",))
    assert near.explained > 0.999
    assert near.remark is not None and "is right, and with it would not be" in near.remark
    assert all(s.remark for s in operation.others if s.explained > 0.999)


def test_a_row_without_a_key_is_no_broken_causal_mask():
    def strict(mask, slots, window):
        return allowed(mask, slots, window) & (slots[:, None] != jnp.arange(mask.shape[1])[None])[None, None]

    operation = only(diagnosis(port(allowed=strict), question=FEW))
    said = "\n".join(fact.text for fact in operation.facts)
    assert "no key was left to them" in said
    assert "causal mask is not whole" not in said
