"""Tunix's mixture of experts, unedited: its router is a function, and its choice two arrays."""

from __future__ import annotations

import warnings
from pathlib import Path

import jax
import pytest

pytest.importorskip("tunix", reason="google-tunix is not installed: pip install -e '.[test,tunix]'")

from harness.run.check import check
from harness.run.question import Question
from harness.tolerances import PRECISIONS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tests.run.adapters import tunix_ports
    from tests.run.adapters.test_tunix_families import repaired
    from tests.run.adapters.tunix_ports import qwen3

pytestmark = pytest.mark.filterwarnings("ignore")  # other people's deprecations
# Experts in every layer, of which theirs has no others: made by `python -m tests.run.adapters.make_qwen3_moe`.
GOLDEN = Path(__file__).with_name("qwen3-moe-all.h5")


@pytest.fixture(autouse=True)
def default_promotion():
    """Tunix promotes as JAX does by default."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def checked(*precisions, **asked):
    def load(directory, config, dtype):
        return tunix_ports.Qwen3Moe.load(directory, config, dtype)

    return check(GOLDEN, GOLDEN.with_suffix(""), "port", Question(precisions, **asked), load=load)


def test_it_matches_in_every_mode_at_every_precision_and_says_where_tokens_go():
    report = checked(*PRECISIONS)
    assert report.verdict == "match", report.introduced
    compared = {(r.precision, r.mode) for r in report.results if r.tap == "layers.1.routing"}
    assert compared == {(p, mode) for p in PRECISIONS for mode in ("forward", "replay")}
    kinds = {r.tap.rpartition(".")[2] for r in report.results}
    assert kinds >= {"router_logits", "routing", "experts_out"}


def test_weights_that_are_not_normed_are_introduced_at_the_experts(monkeypatch):
    """The row says that they are; what the experts make of them is where that is wrong."""
    line = "routing_weights / jnp.sum(routing_weights, axis=-1, keepdims=True)"
    repaired(monkeypatch, qwen3, qwen3.MoELayer, "__call__", (line, "routing_weights"))
    report = checked("float64", modes=("replay",), cases=("seven",))
    wrong = {r.tap.rpartition(".")[2] for r in report.results if r.verdict == "introduced"}
    assert "experts_out" in wrong


def test_another_expert_is_introduced_at_the_routing(monkeypatch):
    line = "jax.nn.softmax(scores, axis=-1), self.experts_per_tok"
    repaired(monkeypatch, qwen3, qwen3.MoELayer, "__call__", (line, f"-{line}"))
    report = checked("float32", modes=("replay",), cases=("seven",))
    first = [r for r in report.results if r.verdict == "introduced"]
    assert {r.tap.rpartition(".")[2] for r in first} == {"routing"}
