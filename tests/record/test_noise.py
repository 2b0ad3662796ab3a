"""Noise floors: PyTorch's own error per position, forward and replay."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

import torch

from harness.errors import RecordError
from harness.record import recorder
from harness.record.capture import Collector
from harness.record.model import Reference
from harness.record.noise import noise_floors, rounded
from harness.store import open_golden
from harness.taps import Tap
from tests.record.test_layer_major import layer_major


@pytest.fixture(scope="module")
def recorded(tiny, small, tmp_path_factory):
    """Of one draw: PyTorch as it is. `test_draws` has those of several."""
    path = tmp_path_factory.mktemp("noise") / "small.h5"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder, "draws_of", lambda tokens: 1)
        recorder.record(tiny, "qwen2-tiny", small, str(path))
    with open_golden(path) as golden:
        assert {entry.draws for entry in golden.manifest.cases} == {1}
        yield golden


def naive(value, truth, position_axis):
    """The statistics of one draw, per position, one position at a time."""
    error = value.double().numpy() - truth
    rows = [np.take(error, position, position_axis).ravel() for position in range(error.shape[position_axis])]
    shares = [3 * (row**2).sum() ** 2 / (row**4).sum() if row.any() else 1 for row in rows]
    statistics = [
        [np.sqrt((row**2).mean()) for row in rows],
        [np.abs(row).max() for row in rows],
        [min(max(share, 1), row.size) for share, row in zip(shares, rows, strict=True)],
        [0] * len(rows),
    ]
    return np.array(statistics)[:, None]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", ["deep", "residual", "shallow"])
def test_forward_noise_is_the_error_of_the_plain_model(tiny, recorded, case, precision):
    entry = recorded.manifest.case(case)
    values = layer_major(Reference(tiny), precision, recorded.case(case).input_ids[0].tolist())
    floors = recorded.noise(case, precision, "forward")
    assert floors.shape == (len(entry.taps), 4, *entry.shape) and floors.dtype == np.float32
    axes = {tap.name: tap.position_axis for tap in recorded.manifest.taps}
    for index, tap in enumerate(entry.taps):
        expected = naive(values[tap], recorded.tap(case, tap), axes[tap])
        np.testing.assert_allclose(floors[index], expected, rtol=1e-6, err_msg=tap)
    assert floors[-1, :2].min() > 0, "no position of the logits is exact"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_replay_noise_is_the_error_of_one_operation_on_golden_inputs(tiny, recorded, precision):
    model = Reference(tiny)
    layer = model.load("layers.2", (precision,))._modules[precision]
    taps = recorded.manifest.case("deep").taps
    floors = recorded.noise("deep", precision, "replay")

    def truth(name):
        return torch.from_numpy(recorded.tap("deep", name).copy())

    operations = {
        "attn_norm": (layer.input_layernorm, "layers.1.resid_post"),
        "up": (layer.mlp.up_proj, "layers.2.mlp_norm"),
        "mlp_out": (layer.mlp.down_proj, "layers.2.act"),
    }
    for kind, (operation, given) in operations.items():
        name = f"layers.2.{kind}"
        with torch.inference_mode():
            value = operation(rounded(truth(given), precision))
        expected = naive(value, truth(name).numpy(), 1)
        np.testing.assert_allclose(floors[taps.index(name)], expected, rtol=1e-6, err_msg=kind)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_at_level_layers_replay_restarts_at_every_layer(tiny, recorded, precision):
    model = Reference(tiny)
    stage = model.load("layers.3", (precision,))
    truth = torch.from_numpy(recorded.tap("residual", "layers.2.resid_post").copy())
    inputs = model.inputs(recorded.case("residual"))
    out = stage.run(precision, rounded(truth, precision), inputs, Collector("layers.3", ()))
    taps = recorded.manifest.case("residual").taps
    expected = naive(out, recorded.tap("residual", "layers.3.resid_post"), 1)
    found = recorded.noise("residual", precision, "replay")[taps.index("layers.3.resid_post")]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_at_level_logits_replay_is_forward(recorded):
    for precision in ("float32", "bfloat16"):
        forward = recorded.noise("shallow", precision, "forward")
        assert np.array_equal(forward, recorded.noise("shallow", precision, "replay"))


def test_errors_accumulate_forward_and_not_in_replay(recorded):
    for precision in ("float32", "bfloat16"):
        forward, replay = (recorded.noise("deep", precision, kind)[-1, 0] for kind in ("forward", "replay"))
        assert forward.mean() > 1.5 * replay.mean()


def test_bfloat16_is_noisier_than_float32_by_the_bits_it_lacks(recorded):
    bfloat16, float32 = (recorded.noise("deep", p, "forward")[-1, :2] for p in ("bfloat16", "float32"))
    ratio = bfloat16 / float32
    assert 2**12 < np.median(ratio) < 2**20  # 16 bits


def test_rounding_to_bfloat16_goes_through_float32():
    """1 + 2^-8 + 2^-40 lies just above a tie of bfloat16; through float32 it becomes the tie, and goes to even."""
    value = torch.tensor([1 + 2**-8 + 2**-40], dtype=torch.float64)
    assert rounded(value, "bfloat16").item() == 1.0
    assert rounded(value, "float32").dtype == torch.float32


def test_a_reference_that_overflows_at_a_precision_is_refused():
    tap = Tap("layers.0.act", ("batch", "position", "intermediate"), ())
    truth = {"act": torch.full((1, 2, 3), 1e39, dtype=torch.float64)}
    values = {"act": truth["act"].float()}
    with pytest.raises(RecordError, match="not finite") as refusal:
        noise_floors([{"act": torch.zeros(1, 2, 3)}, values], truth, [tap], "float32 forward")
    assert refusal.value.where == "layers.0.act, float32 forward"
