"""EasyDeL's Qwen2, unedited: what is right in it, and what is not. Needs EasyDeL and torch (README.md)."""

from __future__ import annotations

import pytest

pytest.importorskip("easydel", reason="EasyDeL is not installed: see tests/clients/README.md")

from easydel.infra.base_config import EasyDeLBaseConfig
from easydel.layers.attention import UnifiedAttention

from harness.tolerances import PRECISIONS
from tests.clients.checking import checked, introduced, largest, proposed, repaired
from tests.clients.easydel_qwen2 import Cached, Port

pytestmark = pytest.mark.filterwarnings("ignore")  # other people's deprecations
CASES = ("digits", "one-to-five", "batch-left", "offset")
CALLS = ("decode", "chunked", "batch-decode", "greedy")
TABLES = (").astype(jnp.bfloat16)", ")")


class Wide(Port):
    """Attention in the dtype that the model is asked for; by default it is bfloat16."""

    @staticmethod
    def options(config, dtype):
        return {"attn_dtype": dtype}


class OneKeyLess(Wide):
    @staticmethod
    def options(config, dtype):
        return {"attn_dtype": dtype, "sliding_window": config["sliding_window"] - 1}


def test_it_computes_the_right_function_and_as_deployed_it_is_as_good_as_pytorch():
    report = checked("qwen2-tiny", Port, ("float64", "bfloat16"), cases=CASES)
    assert report.verdict == "match", report.introduced
    assert largest(report) < 1e-13


def test_asked_for_float32_it_rotates_and_attends_in_bfloat16(monkeypatch):
    """Its tables are bfloat16 whatever it is asked for; attention is too, by an option that has to be set."""
    report = checked("qwen2-tiny", Port, ("float32",), cases=CASES)
    assert introduced(report)[0] == {"q_rope", "k_rope", "probs", "attn_out"}
    assert {r.tap.rpartition(".")[2] for r in report.results if r.verdict == "dtype"} == {"context"}
    assert introduced(checked("qwen2-tiny", Wide, ("float32",), cases=CASES))[0] == {"q_rope", "k_rope"}
    repaired(monkeypatch, EasyDeLBaseConfig, "get_basic_frequencies", TABLES)
    report = checked("qwen2-tiny", Wide, PRECISIONS, cases=CASES)
    assert report.verdict == "match", report.introduced


def test_its_window_is_one_key_too_wide(monkeypatch):
    """Its width counts the keys before the query, and not the query's own as well."""
    assert introduced(checked("qwen2-window", Wide, ("float64",))) == ({"probs"}, {"1", "2"})
    repaired(monkeypatch, EasyDeLBaseConfig, "get_basic_frequencies", TABLES)
    report = checked("qwen2-window", OneKeyLess, PRECISIONS)
    assert report.verdict == "match", report.introduced
    assert largest(report) < 1e-13


class WideCached(Wide, Cached):
    """Its cache has the dtype of attention."""


def test_a_second_chunk_of_a_prefill_is_causal_from_the_first_key(monkeypatch):
    """A mask says that it is causal already by a name that nothing reads, and it is made causal once more."""
    report = checked("qwen2-tiny", WideCached, ("float64",), cases=CALLS)
    assert introduced(report)[0] == {"probs"}
    assert {r.case for r in report.results if r.verdict == "introduced"} == {"chunked"}
    repaired(monkeypatch, UnifiedAttention, "forward", ("_causal_baked", "causal_mask_baked_in"))
    repaired(monkeypatch, EasyDeLBaseConfig, "get_basic_frequencies", TABLES)
    report = checked("qwen2-tiny", WideCached, PRECISIONS, cases=CALLS)
    assert report.verdict == "match", report.introduced
    assert largest(report) < 1e-13
    assert {"cache_k", "cache_v"} <= {r.tap.rpartition(".")[2] for r in report.results}
    assert [one.agreed for one in report.generations if one.precision != "bfloat16"] == [32, 32]


def test_its_cache_is_bfloat16_by_default():
    report = checked("qwen2-tiny", Cached, ("float32",), cases=("decode",))
    assert {"cache_k", "cache_v"} <= {r.tap.rpartition(".")[2] for r in report.results if r.verdict == "dtype"}


def test_its_table_is_proposed_around_all_that_is_bfloat16_in_it(monkeypatch):
    found, share = proposed(monkeypatch, "qwen2-tiny", Port)
    assert share >= 0.9
    wrong = {row.tap.rpartition(".")[2] for row in found.rows if row.wrong}
    assert wrong == {"q_rope", "k_rope", "probs", "context"}  # its output projection is as it should be
    assert (found.missing, found.logits) == ((), True)
