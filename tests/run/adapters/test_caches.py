"""Ports with a KV cache, in every layout: they match call by call, and a bug in the cache is found in the cache."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from harness.errors import PortError
from harness.run.check import check
from harness.run.checker import Checker
from harness.run.question import Question
from harness.run.tapping import no_tap
from harness.tolerances import PRECISIONS
from tests.run.adapters import function_model, nnx_model

CACHED = ("decode", "chunked", "batch-decode")
PORTS = ("nnx_model:Cached", "linen_model:Cached", "function_model:OneArray", "function_model:Paged")
FLOAT32 = Question(precisions=("float32",))


def checked(golden_path, checkpoint, port, question, *, inspect=False):
    def load(directory, config, dtype):
        return port.load(directory, config, dtype, None)

    with Checker(golden_path, checkpoint, port.__name__, question, load=load, inspect=inspect) as checker:
        return checker.report([result for precision in question.precisions for result in checker.run(precision)])


def named(spec):
    module, _, name = spec.partition(":")
    return getattr(__import__(f"tests.run.adapters.{module}", fromlist=["_"]), name)


@pytest.mark.parametrize("spec", PORTS)
def test_a_port_with_a_cache_matches_in_every_mode_and_writes_on_by_itself(golden_path, checkpoint, spec):
    question = Question(precisions=PRECISIONS, cases=("decode", "greedy"))
    report = checked(golden_path, checkpoint, named(spec), question)
    assert report.verdict == "match", report.introduced
    assert {(r.precision, r.mode) for r in report.results if r.tap == "layers.1.cache_v"} >= {
        (precision, mode) for precision in PRECISIONS for mode in ("forward", "replay")
    }
    assert [(one.precision, one.agreed) for one in report.generations][0] == ("float64", 32)
    assert max(r.rel_rms for r in report.results if r.precision == "float64") < 1e-13
