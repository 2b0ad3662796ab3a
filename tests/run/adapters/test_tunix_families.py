"""Tunix's Qwen3, Gemma 2 and Gemma 3, unedited: what is right in them, and defects that ship today.

A defect is proven by its repair: one line of their source is replaced, and the port matches at every precision.
"""

from __future__ import annotations

import inspect
import textwrap
import warnings

import jax
import pytest

pytest.importorskip("tunix", reason="google-tunix is not installed: pip install -e '.[test,tunix]'")

from harness import embedded
from harness.run.check import check
from harness.run.question import Question
from harness.tolerances import PRECISIONS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tests.run.adapters import tunix_ports
    from tests.run.adapters.tunix_ports import gemma2, gemma3, qwen3

pytestmark = pytest.mark.filterwarnings("ignore")  # other people's deprecations


@pytest.fixture(autouse=True)
def default_promotion():
    """Tunix promotes as JAX does by default."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


# One token; more than a window; a batch whose rows they have alone; positions that jump.
CASES = ("single", "seven", "left", "far")


def checked(name, port, *precisions, **asked):
    def load(directory, config, dtype):
        return port.load(directory, config, dtype)

    directory = embedded.directory()
    return check(directory / f"{name}.h5", directory / name, name, Question(precisions, **asked), load=load)


def wrong(report):
    """What is introduced: kinds of taps, layers, cases."""
    found = [r for r in report.results if r.verdict == "introduced" and r.mode == "replay"]
    kinds = {r.tap.rpartition(".")[2] for r in found}
    return kinds, {r.tap.split(".")[1] for r in found}, {r.case for r in found}


def repaired(monkeypatch, module, owner, name, *lines):
    """A function of theirs with lines of its source replaced."""
    source = textwrap.dedent(inspect.getsource(getattr(owner, name)))
    for old, new in lines:
        assert old in source
        source = source.replace(old, new)
    made = {}
    exec(compile(source, f"{module.__name__}, repaired", "exec"), module.__dict__, made)
    monkeypatch.setattr(owner, name, made[name])


def test_qwen3_never_reads_its_rope_theta(monkeypatch):
    """It has 1e6 built in; the 2507 models of Qwen3 have 5e6."""
    report = checked("qwen3", tunix_ports.Qwen3, "float64", modes=("replay",), cases=("seven",))
    assert wrong(report)[:2] == ({"q_rope", "k_rope"}, {"0", "1", "2"})
    read = "head_dim=self.head_dim, rope_theta=self.config.rope_theta,"
    repaired(monkeypatch, qwen3, qwen3.Attention, "block", ("head_dim=self.head_dim,", read))
    report = checked("qwen3", tunix_ports.Qwen3, *PRECISIONS, cases=CASES)
    assert report.verdict == "match", report.introduced
    assert {(r.precision, r.mode) for r in report.results} == {
        (precision, mode) for precision in PRECISIONS for mode in ("forward", "replay", "alone")
    }
    assert max(r.rel_rms for r in report.results if r.precision == "float64" and r.case != "far") < 1e-13


SCALE = ("self.head_dim**-0.5", "12**-0.5")
SLOTS = ("segment_pos,\n        cache_len", "jnp.arange(seq_len)[None],\n        cache_len")


def test_gemma2_scales_by_head_dim_and_counts_its_window_in_positions(monkeypatch):
    """query_pre_attn_scalar is not head_dim in the 27B model, and in padded rows positions are not slots."""
    report = checked("gemma2", tunix_ports.Gemma2, "float64", modes=("replay",), cases=("seven",))
    assert wrong(report)[:2] == ({"probs"}, {"0", "1", "2"})
    right = gemma2.Attention.block
    repaired(monkeypatch, gemma2, gemma2.Attention, "block", SCALE)
    report = checked("gemma2", tunix_ports.Gemma2, "float64", modes=("replay",))
    assert wrong(report) == ({"probs"}, {"0", "2"}, {"far"})
    monkeypatch.setattr(gemma2.Attention, "block", right)
    repaired(monkeypatch, gemma2, gemma2.Attention, "block", SCALE, SLOTS)
    report = checked("gemma2", tunix_ports.Gemma2, *PRECISIONS, cases=CASES)
    assert report.verdict == "match", report.introduced


def test_gemma3_matches_in_every_mode_at_every_precision(monkeypatch):
    """Its pattern of layers is a constant of the module; ours is shorter, for a model of three layers."""
    local, every = gemma3.AttentionType.LOCAL_SLIDING, gemma3.AttentionType.GLOBAL
    monkeypatch.setattr(gemma3, "GEMMA3_ATTENTION_PATTERN", (local, every))
    report = checked("gemma3", tunix_ports.Gemma3, *PRECISIONS, cases=CASES)
    assert report.verdict == "match", report.introduced
    assert max(r.rel_rms for r in report.results if r.precision == "float64" and r.case != "far") < 1e-13
