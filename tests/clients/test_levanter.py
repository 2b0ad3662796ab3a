"""Levanter's models, unedited: Qwen2, and by the same table Llama 3 and Qwen3. Needs Levanter (README.md)."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("levanter", reason="Levanter is not installed: see tests/clients/README.md")

from levanter.layers.attention import AttentionBackend
from levanter.models.llama import LlamaConfig, LlamaLMHeadModel
from levanter.models.qwen import Qwen3Config, QwenConfig
from transformers import LlamaConfig as HfLlama
from transformers import Qwen2Config
from transformers import Qwen3Config as HfQwen3

from harness.errors import PortError
from harness.run.adapters import To
from harness.tolerances import PRECISIONS
from tests.clients.checking import checked, largest, proposed
from tests.clients.levanter_paged import GROUPED as TOKENS
from tests.clients.levanter_paged import Paged, flat
from tests.clients.levanter_qwen import GROUPED, A, Port

pytestmark = pytest.mark.filterwarnings("ignore")  # other people's deprecations


def test_qwen2_matches_at_every_tap_and_precision():
    report = checked("qwen2-tiny", Port, PRECISIONS)
    assert report.verdict == "match", report.introduced
    assert largest(report) < 1e-13
    assert not [line for line in report.not_covered if line.startswith("tap ")]


class Flash(Port):
    """The backend that it takes on a CPU by itself."""

    taps = {path: tap for path, tap in Port.taps.items() if "dropout" not in path}
    backend = AttentionBackend.JAX_FLASH


def test_its_own_flash_attention_matches():
    report = checked("qwen2-tiny", Flash, PRECISIONS, cases=("quick-brown", "batch-left"))
    assert report.verdict == "match", report.introduced


def test_a_sliding_window_is_refused():
    with pytest.raises(PortError, match="Sliding window attention is not implemented"):
        checked("qwen2-window", Port, ("float64",))


class Qwen3(Port):
    configs = Qwen3Config, HfQwen3
    taps = {**Port.taps, f"{A}.q_norm": To("layers.{i}.q_norm", GROUPED), f"{A}.k_norm": "layers.{i}.k_norm"}


def test_qwen3_matches_at_every_tap_and_precision():
    report = checked("qwen3", Qwen3, PRECISIONS)
    assert report.verdict == "match", report.introduced


class Llama(Port):
    configs = LlamaConfig, HfLlama


class WithHeadDim(LlamaConfig):
    @classmethod
    def from_hf_config(cls, hf_config):
        return dataclasses.replace(LlamaConfig.from_hf_config(hf_config), head_dim=hf_config.head_dim)


def test_llama_does_not_read_its_head_dim(monkeypatch):
    """With a head_dim that is not hidden_size / num_attention_heads nothing can be loaded; with it all matches."""
    with pytest.raises(ValueError, match="Shape mismatch"):
        checked("llama3", Llama, ("float64",))
    monkeypatch.setattr(Llama, "configs", (WithHeadDim, HfLlama))
    report = checked("llama3", Llama, PRECISIONS)
    assert report.verdict == "match", report.introduced


def test_its_table_is_proposed(monkeypatch):
    found, share = proposed(monkeypatch, "qwen2-tiny", Port)
    assert share >= 0.9
    assert (found.missing, found.logits) == ((), True)


class AsLlama(QwenConfig):
    """Qwen2 in the classes of Llama, which it is but for its biases: these can decode."""

    model_type = property(lambda self: LlamaLMHeadModel)

    @classmethod
    def from_hf_config(cls, hf_config):
        found = QwenConfig.from_hf_config(hf_config)
        return cls(**{one.name: getattr(found, one.name) for one in dataclasses.fields(found) if one.init})


class PagedQwen2(Paged):
    configs = AsLlama, Qwen2Config


class PagedLlama(Paged):
    configs = WithHeadDim, HfLlama


class PagedQwen3(Paged):
    configs = Qwen3Config, HfQwen3
    taps = {
        **Paged.taps,
        f"{A}.q_norm#{{i}}": To("layers.{i}.q_norm", TOKENS),
        f"{A}.k_norm#{{i}}": flat("layers.{i}.k_norm", "kv_head head_dim"),
    }


def test_qwen2_has_no_way_to_decode():
    with pytest.raises(PortError, match="at 'decode'"):
        checked("qwen2-tiny", Paged, ("float32",), cases=("decode",))


@pytest.mark.parametrize(
    ("golden", "port", "cases"),
    [
        ("llama3", PagedLlama, ("chunks", "left-decode")),
        ("qwen3", PagedQwen3, ("chunks", "left-decode")),
        ("qwen2-tiny", PagedQwen2, ("decode", "chunked", "batch-decode", "greedy")),
    ],
)
def test_its_pages_match_step_by_step_in_chunks_and_in_batches(golden, port, cases):
    report = checked(golden, port, PRECISIONS, cases=cases)
    assert report.verdict == "match", report.introduced
    assert largest(report) < 1e-13
    assert {"cache_k", "cache_v"} <= {r.tap.rpartition(".")[2] for r in report.results}
