"""A Qwen2 that nobody here wrote: google-tunix's, by the port in the README. Needs the `tunix` extra."""

from __future__ import annotations

import importlib.util
import inspect
import textwrap
import warnings

import jax
import pytest

pytest.importorskip("tunix", reason="google-tunix is not installed: pip install -e '.[test,tunix]'")

from harness.report.agreement import call_evidence
from harness.results import MODES
from harness.run.check import check
from harness.run.question import Question
from harness.store import open_golden
from harness.tolerances import PRECISIONS
from tests import documents

SPEC = "tunix_port:Port"

pytestmark = pytest.mark.filterwarnings("ignore")  # other people's deprecations


@pytest.fixture(scope="module")
def port():
    """The README's code, as it stands there."""
    code = documents.port("tunix")
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec("tunix_port", None))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code, documents.PORTS["tunix"], "exec"), module.__dict__)
    return module.Port


@pytest.fixture(autouse=True)
def default_promotion():
    """Tunix promotes as JAX does by default."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def checked(golden_path, checkpoint, port, *precisions, cases=("one-to-five",)):
    def load(directory, config, dtype):
        return port.load(directory, config, dtype, None)

    return check(golden_path, checkpoint, SPEC, Question(precisions, cases=cases), load=load)


@pytest.fixture(scope="module")
def report(golden_path, checkpoint, port):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return checked(golden_path, checkpoint, port, *PRECISIONS, cases=())


def test_tunix_matches_on_every_case_in_all_modes_at_every_precision_and_writes_on_by_itself(report, golden_path):
    assert report.verdict == "match"
    assert {(r.precision, r.mode) for r in report.results} == {
        (precision, mode) for precision in PRECISIONS for mode in MODES
    }
    assert {r.tap for r in report.results} == set(report.taps)
    with open_golden(golden_path) as golden:
        assert {r.case for r in report.results} == {case.name for case in golden.manifest.cases}
    assert [(one.precision, one.agreed, one.tokens) for one in report.generations] == [
        (precision, 32, 32) for precision in PRECISIONS
    ]


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
        def run(self, model, input_ids, positions, mask, cache):
            return model(input_ids, positions, cache, None)

    found = checked(golden_path, checkpoint, Unmasked, "float64", "float32")
    assert {tap.rpartition(".")[2] for tap in found.introduced} == {"probs"}
    assert len(found.introduced) == 4


def test_a_rotation_planted_in_it_is_found_where_it_sits(golden_path, checkpoint, port, monkeypatch):
    from tunix.models.qwen2 import model

    right = model.apply_rotary_embedding
    monkeypatch.setattr(model, "apply_rotary_embedding", lambda x, sin, cos: right(x, -sin, cos))
    found = checked(golden_path, checkpoint, port, "float64", "float32")
    assert {tap.rpartition(".")[2] for tap in found.introduced} == {"q_rope", "k_rope"}


@pytest.mark.parametrize(
    ("right", "wrong", "kinds", "when"),
    [
        ("cache['end_index'] + seq_len", "jnp.minimum({}, 9)", {"cache_k", "cache_v"}, "first after step 2"),
        (
            "cache['k'], key_proj",
            "{}.astype(jnp.bfloat16).astype(x.dtype)",
            {"cache_k"},
            "first after the prefill",
        ),
    ],
)
def test_a_bug_planted_in_its_cache_is_found_there_and_at_the_call_where_it_starts(
    golden_path, checkpoint, port, monkeypatch, right, wrong, kinds, when
):
    from tunix.models.qwen2 import model

    source = textwrap.dedent(inspect.getsource(model.Attention.block))
    assert right in source
    exec(
        compile(source.replace(right, wrong.format(right)), "tunix, with a bug", "exec"),
        model.__dict__,
        made := {},
    )
    monkeypatch.setattr(model.Attention, "block", made["block"])
    found = checked(golden_path, checkpoint, port, "float32", cases=("decode",))
    results = [r for r in found.results if r.verdict == "introduced" and r.mode == "replay"]
    assert {r.tap.rpartition(".")[2] for r in results} == kinds
    (evidence,) = call_evidence(results)
    assert evidence.startswith(f"wrong in the cache itself, {when} (case decode")
