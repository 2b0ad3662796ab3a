"""A Qwen2 that nobody here wrote: google-tunix's, by the port in the README. Needs the `tunix` extra."""

from __future__ import annotations

import importlib.util
import re
import warnings
from pathlib import Path

import jax
import pytest

pytest.importorskip("tunix", reason="google-tunix is not installed: pip install -e '.[test,tunix]'")

from harness.run.check import check
from harness.run.question import Question
from harness.store import open_golden
from harness.taps import CACHE_KINDS

ROOT = Path(__file__).parents[3]
SPEC = "tunix_port:Port"
pytestmark = pytest.mark.filterwarnings("ignore")  # other people's deprecations


@pytest.fixture(scope="module")
def port():
    """The README's code, as it stands there."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme[readme.index("<!-- port: tunix -->") :]
    code = re.search(r"```python\n(.*?)```", section, flags=re.DOTALL).group(1)
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec("tunix_port", None))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code, "README.md", "exec"), module.__dict__)
    return module.Port


@pytest.fixture(autouse=True)
def default_promotion():
    """Tunix promotes as JAX does by default."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def checked(golden_path, checkpoint, port, *precisions, cases=("one-to-five",)):
    def load(directory, config, dtype):
        return port.load(directory, config, dtype, None)

    return check(golden_path, checkpoint, SPEC, Question(precisions, cases=cases), load=load)


@pytest.fixture(scope="module")
def report(golden_path, checkpoint, port):
    with jax.numpy_dtype_promotion("standard"):
        return checked(golden_path, checkpoint, port, "float64", "float32", "bfloat16", cases=())


def test_tunix_matches_on_every_case_without_a_cache_in_its_three_modes_at_every_precision(report, golden_path):
    assert report.verdict == "match"
    assert {(r.precision, r.mode) for r in report.results} == {
        (precision, mode)
        for precision in ("float64", "float32", "bfloat16")
        for mode in ("forward", "replay", "alone")
    }
    every = {name.rpartition(".")[2] for name in report.taps} - CACHE_KINDS  # a prompt has no cache
    assert {r.tap.rpartition(".")[2] for r in report.results} == every
    with open_golden(golden_path) as golden:
        assert {r.case for r in report.results} == {c.name for c in golden.manifest.cases if not c.cached}
        cached = ", ".join(c.name for c in golden.manifest.cases if c.cached)
    reason = "cases with a KV cache, which the port does not have (init_cache)"
    assert f"{reason}: {cached}" in report.not_covered


def test_its_hard_coded_float32_is_lifted_to_float64(report):
    assert max(r.rel_rms for r in report.results if r.precision == "float64") < 1e-13
    assert "were lifted" in report.notes[0]


def test_what_its_sub_modules_do_not_expose_is_covered_by_functions(report):
    """Its biases are added outside its projections; RoPE and softmax are functions."""
    assert not [line for line in report.not_covered if line.startswith("tap ")]
    assert {"q", "k", "v", "q_rope", "k_rope", "probs"} <= {r.tap.rpartition(".")[2] for r in report.results}


def test_its_logits_are_float32_whatever_the_dtype_and_have_to_be_declared(golden_path, checkpoint, port):
    class Undeclared(port):
        dtypes = {}

    found = checked(golden_path, checkpoint, Undeclared, "bfloat16")
    assert {r.verdict for r in found.results if r.tap == "logits"} == {"dtype"}


def test_without_an_attention_mask_it_is_bidirectional_and_the_check_says_where(golden_path, checkpoint, port):
    class Unmasked(port):
        def run(self, model, input_ids, positions, mask):
            return model(input_ids, positions, None, None)[0]

    found = checked(golden_path, checkpoint, Unmasked, "float64", "float32")
    assert {tap.rpartition(".")[2] for tap in found.introduced} == {"probs"}
    assert len(found.introduced) == 4


def test_a_rotation_planted_in_it_is_found_where_it_sits(golden_path, checkpoint, port, monkeypatch):
    from tunix.models.qwen2 import model

    right = model.apply_rotary_embedding
    monkeypatch.setattr(model, "apply_rotary_embedding", lambda x, sin, cos: right(x, -sin, cos))
    found = checked(golden_path, checkpoint, port, "float64", "float32")
    assert {tap.rpartition(".")[2] for tap in found.introduced} == {"q_rope", "k_rope"}
