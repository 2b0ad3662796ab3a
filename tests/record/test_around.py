"""What is made around a layer is made once for a unit of work, and nothing of the unit changes."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

import torch

from harness.families.graph import taps_of
from harness.record import shell
from harness.record.model import Reference
from harness.record.unit import PRECISIONS, Replay, Task, compute
from tests.record.test_decode import case


@pytest.fixture(scope="module")
def model(tiny):
    return Reference(tiny)


def units(model, name: str, draws: int = 3):
    """What the first layer gives in a case."""
    the, state = case(name), {}
    for stage, entering in (("embed", "forward"), ("layers.0", "truth")):
        taps = [tap for tap in taps_of(model.arch) if stage in (tap.stage, tap.name)]
        replay = Replay(stage != "embed", entering, carries=False)
        task = Task(model.inputs(the), the.spans, taps, replay, draws=draws, seed=name)
        unit = compute(model.load(stage, PRECISIONS), task, state)
        state = unit.state
    return unit


def differing(one, other) -> set[str]:
    found = {name for name, value in one.truth.items() if not torch.equal(value, other.truth[name])}
    found |= {name for name, value in one.state.items() if not torch.equal(value, other.state[name])}
    return found | {stream for stream, value in one.noise.items() if (value != other.noise[stream]).any()}


@pytest.mark.parametrize("name", ["offset", "ragged decode"])
def test_a_unit_has_the_bits_that_it_has_where_nothing_is_kept(model, name, monkeypatch):
    kept = units(model, name)
    monkeypatch.setattr(shell.Kept, "of", lambda self, key: None)
    assert differing(kept, units(model, name)) == set()


def test_masks_are_made_once_for_every_precision_and_frequencies(model, monkeypatch):
    made = []
    enter = shell.entering
    monkeypatch.setattr(shell, "entering", lambda layer, state: made.append(state) or enter(layer, state))
    units(model, "offset")
    # Truth; and at two precisions as it is, and nudged for all further draws, forward and in replay.
    twice = [torch.float32, torch.float32, torch.bfloat16, torch.bfloat16]
    assert [state.dtype for state in made] == [torch.float64, *twice]


def test_what_was_kept_for_other_frequencies_would_be_seen(model, monkeypatch):
    kept = units(model, "offset")
    monkeypatch.setattr(shell.Kept, "of", lambda self, key: self.around if self.key[:1] == key[:1] else None)
    wrong = differing(kept, units(model, "offset"))
    assert {"float32 forward 1", "float32 forward 2"} <= wrong and "float32 forward" not in wrong
