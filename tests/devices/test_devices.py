"""Ports on eight devices, which a CPU can have: one process checks them all (tests/devices/checks.py)."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from harness.run.devices import COUNT_FLAG
from tests import zygote
from tests.devices.checks import ALONE
from tests.devices.split import BUGS

ROOT = Path(__file__).parents[2]
LAYERS = 4
ON_MESH = ("whole", "dividing", "typed", "adapted", "split")


@pytest.fixture(scope="module")
def found():
    """What the process found, by check."""
    flags = " ".join(filter(None, (os.environ.get("XLA_FLAGS"), f"{COUNT_FLAG}=8")))
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.devices.checks"]
    done = zygote.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["devices"] == 8
    return found


@pytest.mark.parametrize("name", ON_MESH)
def test_a_sharded_port_matches_in_forward_and_in_replay(found, name):
    assert found[name]["verdicts"] == ["match"]
    assert {mode for _, _, mode, _, _ in found[name]["by place"]} == {"forward", "replay"}


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        ("whole", {"data": 2, "model": 4}),
        ("dividing", {"data": 3, "model": 2}),
        ("typed", {"model": 2}),
        ("adapted", {"data": 2, "model": 4}),
        ("split", {"kv": 2, "group": 3}),
        ("alone", None),
    ],
)
def test_the_report_says_the_mesh_and_its_kinds_of_devices(found, name, mesh):
    assert found[name]["mesh"] == mesh
    assert found[name]["devices"] == ["cpu"]


def test_the_built_in_decoder_has_the_verdicts_on_a_mesh_that_it_has_on_one_device(found):
    both = [place for place in found["whole"]["by place"] if place[1] in ALONE]
    assert both == found["alone"]["by place"]
    assert {precision for precision, *_ in found["whole"]["by place"]} == {"float64", "float32", "bfloat16"}
    assert {case for _, case, *_ in found["whole"]["by place"]} == {"digits", "batch-left", "batch-decode"}


def test_what_an_axis_does_not_divide_is_a_note(found):
    assert found["whole"]["notes"] == [
        "whole on all devices along model, since 4 does not divide them: heads 6, KV heads 2",
        "whole on all devices along data: inputs of a number of rows that 2 does not divide",
    ]
    assert found["dividing"]["notes"] == [
        "whole on all devices along data: inputs of a number of rows that 3 does not divide"
    ]


def test_the_built_in_decoder_splits_what_the_axes_divide(found):
    whole_and_part = {
        "q kernel": [48, 48, 48, 24],
        "k kernel": [48, 16, 48, 8],
        "attn_out kernel": [48, 48, 24, 48],
        "up kernel": [48, 72, 48, 36],
        "mlp_out kernel": [72, 48, 36, 48],
        "q bias": [48, 24],
        "attn_norm": [48, 48],
        "embed": [608, 48, 304, 48],
        "head": [48, 608, 48, 304],
        "cache": [3, 9, 2, 8, 1, 9, 1, 8],
    }
    assert found["layouts"] == whole_and_part


def test_a_sum_over_devices_is_rounded_once(found):
    assert found["rounded differently"] < 0.01  # 0.39 where each device rounds its part


@pytest.mark.parametrize(
    ("way", "spec"),
    [
        ("traced", [None, "model"]),
        ("tapped", [None, None, None, "model"]),
        ("eager", [None, None, None, "model"]),
    ],
)
def test_on_explicit_axes_the_golden_goes_on_in_the_layout_of_the_value(found, way, spec):
    assert found["marked"][f"{way} forward"] == [[1.0], [2.0], spec]
    assert found["marked"][f"{way} replay"] == [[1.0], [14.0], spec]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_sharding_bug_is_found_at_the_operation_where_it_sits(found, bug):
    said = found["bugs"][bug.name]
    assert said["verdict"] == "diverged"
    assert said["introduced"] == sorted(bug.kinds)
    assert said["in layers"] == LAYERS * len(bug.kinds)
    assert set(said["verdicts"]) == {"match", "introduced", "inherited"}


def test_the_bugs_sit_where_ports_have_had_them():
    assert {kind for bug in BUGS for kind in bug.kinds} == {
        *("q", "k", "v", "probs", "context", "attn_out", "mlp_out", "cache_k", "cache_v")
    }
