"""What a recording draws: PyTorch as it is, then nudged, in every stream of every unit."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

import torch

from harness.corpus import Corpus
from harness.entries import Decode, Offset, Prompt
from harness.families.graph import taps_of
from harness.golden import NOISE_PRECISIONS, NOISE_STATISTICS
from harness.record import recorder, unit
from harness.record.cases import case_of
from harness.record.layer_major import recorded
from harness.record.model import Reference
from harness.record.noise import DTYPES, draws_of, nudged
from harness.record.unit import FAR, Replay, Task, compute
from harness.selecting import at_level
from harness.store import open_golden


def test_short_cases_are_drawn_more_often():
    assert [draws_of(n) for n in (1, 64, 65, 10_000)] == [4, 4, 2, 2]


@pytest.fixture
def passes(monkeypatch):
    """Every pass that a unit runs: (stage, stream, whether frequencies are nudged, what came in, replacements)."""
    seen = []
    run = unit._run

    def noted(stage, task, stream, precision, state, replacements, pinned=None):
        seen.append((stage.prefix, stream, task.inputs.nudged, state, replacements or {}))
        return run(stage, task, stream, precision, state, replacements, pinned)

    monkeypatch.setattr(unit, "_run", noted)
    return seen


def task_of(model, stage, entry, ids, draws):
    case = case_of(entry, {entry.name: ids}, {}, 0)
    taps = [tap.name for tap in at_level(taps_of(model.arch), "ops", cached=bool(case.calls))]
    found = recorded(stage, SimpleNamespace(taps=taps), taps_of(model.arch))
    replay = Replay(True, "forward" if stage == "embed" else "truth", False)
    return Task(model.inputs(case), case.spans, found, replay, draws=draws, seed=entry.name)


PROMPT = Prompt("one", "text", "why")
DECODE = Decode("two", "text", "why", steps=3)
IDS = [5, 300, 7, 80, 41, 9]


def states(model, entry, draws):
    """What the embedding hands on: stream -> hidden states."""
    return compute(model.load("embed", unit.PRECISIONS), task_of(model, "embed", entry, IDS, draws), {}).state


def test_the_first_draw_is_pytorch_as_it_is_and_further_ones_are_nudged_where_tokens_come_in(tiny):
    model = Reference(tiny)
    made = states(model, PROMPT, 3)
    for precision in NOISE_PRECISIONS:
        plain = made[f"{precision} forward"]
        assert torch.equal(plain, made["float64"].to(torch.float32).to(plain.dtype)), "a look-up is exact here"
        others = [made[f"{precision} forward {draw}"] for draw in (1, 2)]
        for draw, other in enumerate(others, 1):
            assert torch.equal(other, nudged(plain, f"one {precision} forward {draw}"))
            assert not torch.equal(other, plain)
        assert not torch.equal(*others)


def test_a_further_draw_goes_through_the_layers_as_it_is(tiny, passes):
    model = Reference(tiny)
    state = states(model, PROMPT, 2)
    passes.clear()
    compute(model.load("layers.0", unit.PRECISIONS), task_of(model, "layers.0", PROMPT, IDS, 2), state)
    came_in = {stream: given for _, stream, _, given, _ in passes}
    for precision in NOISE_PRECISIONS:
        for stream in (f"{precision} forward", f"{precision} forward 1"):
            assert torch.equal(came_in[stream], state[stream]), stream


def test_in_replay_the_first_draw_starts_from_rounded_truth_and_the_next_from_it_nudged(tiny, passes):
    model = Reference(tiny)
    state = states(model, PROMPT, 2)
    passes.clear()
    compute(model.load("layers.0", unit.PRECISIONS), task_of(model, "layers.0", PROMPT, IDS, 2), state)
    by_stream = {stream: (given, replaced) for _, stream, _, given, replaced in passes}
    for precision in NOISE_PRECISIONS:
        (first, golden), (second, moved) = (by_stream[f"{precision} replay{n}"] for n in ("", " 1"))
        assert torch.equal(first, state["float64"].to(torch.float32).to(DTYPES[precision]))
        assert torch.equal(second, nudged(first, f"one layers.0 {precision} replay 1 entry"))
        assert golden and golden.keys() == moved.keys()
        for kind, value in golden.items():
            assert torch.equal(moved[kind], nudged(value, f"one layers.0 {precision} replay 1 {kind}")), kind
            assert not torch.equal(moved[kind], value), kind


def test_a_cache_is_nudged_as_the_keys_and_values_that_went_into_it(tiny, passes):
    model = Reference(tiny)
    state = states(model, DECODE, 2)
    passes.clear()
    compute(model.load("layers.0", unit.PRECISIONS), task_of(model, "layers.0", DECODE, IDS, 2), state)
    replays = [(stream, replaced) for _, stream, _, _, replaced in passes if " replay" in stream]
    assert len(replays) == 4
    for stream, replaced in replays:
        assert torch.equal(replaced["cache_k"], replaced["k_rope"]), stream
        assert torch.equal(replaced["cache_v"], replaced["v"]), stream


@pytest.mark.parametrize(("last", "far"), [(FAR - 1, False), (FAR, True)])
def test_only_further_draws_of_cases_that_reach_far_have_nudged_frequencies(tiny, passes, last, far):
    entry = Offset("off", "text", ((0, 0), (1, last - 1)), "why")
    model = Reference(tiny)
    embedded = compute(model.load("embed", unit.PRECISIONS), task_of(model, "embed", entry, IDS[:3], 2), {}).state
    passes.clear()
    compute(model.load("layers.0", unit.PRECISIONS), task_of(model, "layers.0", entry, IDS[:3], 2), embedded)
    nudges = {stream: nudge for _, stream, nudge, _, _ in passes}
    assert len(nudges) == 9
    for stream, nudge in nudges.items():
        assert nudge == (far and stream.endswith(" 1")), stream


def test_frequencies_are_nudged_upward_by_one_unit_and_the_exact_one_is_not(tiny):
    model = Reference(tiny)
    for precision in NOISE_PRECISIONS:
        plain, moved = (model.rotary(precision, nudged).inv_freq for nudged in (False, True))
        steps = moved.view(torch.int32) - plain.view(torch.int32)
        assert plain.dtype == torch.float32 and plain[0] == 1
        assert steps.tolist() == [0, *[1] * (len(plain) - 1)]


def test_a_golden_says_how_often_each_case_was_drawn_and_has_the_combined_floors(tiny, tmp_path, monkeypatch):
    corpus = Corpus((Prompt("short", "The quick brown fox", "few tokens", level="logits"),))
    draws: list[np.ndarray] = []
    floors = unit.noise_floors

    def noted(values, truth, taps, stream):
        if stream == "bfloat16 forward" and taps and taps[-1].kind == "logits":
            draws.extend((value["logits"].double() - truth["logits"]).numpy() for value in values)
        return floors(values, truth, taps, stream)

    monkeypatch.setattr(unit, "noise_floors", noted)
    recorder.record(tiny, "t", corpus, str(tmp_path / "a.h5"), recorder.Options(level="logits"))
    with open_golden(tmp_path / "a.h5") as golden:
        assert golden.manifest.case("short").draws == 4
        assert golden.manifest.statistics == NOISE_STATISTICS
        found = golden.noise("short", "bfloat16", "forward")[-1]
    errors = np.stack(draws[:4])
    assert len({error.tobytes() for error in errors}) == 4, "every draw is another"
    np.testing.assert_allclose(found[0], np.sqrt((errors**2).mean((0, 3))), rtol=1e-6)
    np.testing.assert_allclose(found[1], np.sqrt((np.abs(errors).max(-1) ** 2).mean(0)), rtol=1e-6)
    np.testing.assert_allclose(found[3], np.log((errors**2).mean(3)).var(0, ddof=1), rtol=1e-4)
