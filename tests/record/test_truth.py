"""Truth is a real float64 pass: the casts in the model code are lifted, and it agrees with an independent one."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

import torch
from transformers import AutoModelForCausalLM

from harness.record.promote import Float64Mode
from harness.record.recorder import Options, record
from harness.store import open_golden
from tests.families.formulas import forward, relative_rms
from tests.record.conftest import read_weights

REQUESTS = {
    "x.to(float32)": lambda x: x.to(torch.float32),
    "x.to(dtype=float)": lambda x: x.to(dtype=torch.float),
    "x.float()": lambda x: x.float(),
    "x.bfloat16()": lambda x: x.bfloat16(),
    "x.type(float32)": lambda x: x.type(torch.float32),
    "softmax(dtype=float32)": lambda x: torch.nn.functional.softmax(x, dim=-1, dtype=torch.float32),
    "x.sum(dtype=float32)": lambda x: x.sum(dtype=torch.float32),
    "arange(dtype=float)": lambda x: torch.arange(3, dtype=torch.float),
    "zeros()": lambda x: torch.zeros(3),
    "int / int": lambda x: torch.arange(3) / 2,
    "integers.float()": lambda x: torch.arange(3).float(),
    "empty_like(float16)": lambda x: torch.empty_like(x, dtype=torch.float16),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_every_request_for_less_than_float64_gives_float64(request_):
    x = torch.ones(3, dtype=torch.float64)
    with Float64Mode():
        assert request_(x).dtype == torch.float64
    assert request_(x).dtype != torch.float64, "without the mode this request is one for less"


def test_other_dtypes_are_left_alone():
    with Float64Mode():
        assert torch.arange(3).dtype == torch.int64
        assert torch.ones(3).to(torch.bool).dtype == torch.bool
        assert torch.ones(3).int().dtype == torch.int32


def test_the_mode_leaves_no_trace_even_after_an_exception():
    with pytest.raises(ZeroDivisionError), Float64Mode():
        _ = 1 / 0
    assert torch.get_default_dtype() == torch.float32
    assert torch.zeros(1).dtype == torch.float32


@pytest.fixture(scope="module")
def recorded(tiny, corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp("truth") / "code.h5"
    record(tiny, "qwen2-tiny", corpus, str(path), Options(cases=("code",)))
    with open_golden(path) as golden:
        yield golden


@pytest.fixture(scope="module")
def independent(tiny, recorded):
    config = json.loads((tiny / "config.json").read_text())
    return forward(read_weights(tiny), config, recorded.case("code").input_ids[0].tolist())


def test_truth_agrees_with_an_independent_float64_implementation_at_every_tap(recorded, independent):
    taps = recorded.manifest.case("code").taps
    assert set(taps) == set(independent)
    errors = {tap: relative_rms(recorded.tap("code", tap), independent[tap]) for tap in taps}
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] < 5e-15, f"{worst}: {errors[worst]:.2g}"


def test_plain_double_is_no_better_than_float32(tiny, recorded, independent):
    ids = torch.from_numpy(recorded.case("code").input_ids.copy()).long()
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        single = model(ids).logits.numpy()
        double = model.double()(ids).logits.numpy()
    assert double.dtype == np.float64
    assert 2e-8 < relative_rms(double, independent["logits"]) < 1e-6
    assert 2e-8 < relative_rms(single, independent["logits"]) < 2e-6
