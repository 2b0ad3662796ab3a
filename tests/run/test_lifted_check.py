"""A float64 check of a port that hard-codes float32: lifted, or falling back to float32 aloud."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.run.check import check
from harness.run.operations import OPERATIONS
from harness.run.question import Question
from tests.run.ports import Wrapped


@pytest.fixture(autouse=True)
def default_promotion_of_ranks(strict_promotion):
    """The ports here are as users write them: they promote ranks as JAX does by default."""
    with jax.numpy_rank_promotion("allow"):
        yield


def narrow_norm(x, weight, eps):
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps)
    return weight * y.astype(x.dtype)


def narrow_bits(x, weight, eps):
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)
    return narrow_norm(jax.lax.bitcast_convert_type(bits, jnp.float32).astype(x.dtype), weight, eps)


class NarrowInside(Wrapped):
    """The README's kind of port: it taps, and computes its norms in float32 whatever it is given."""

    norm = staticmethod(narrow_norm)

    @classmethod
    def load(cls, checkpoint, config, dtype, mesh):
        from dataclasses import replace

        from harness.run.decoder import Decoder

        names = ("attn_norm", "mlp_norm", "final_norm")
        operations = replace(OPERATIONS, **dict.fromkeys(names, cls.norm))
        return cls(Decoder.load(checkpoint, config, dtype, mesh, operations=operations))


class EpsTooLarge(NarrowInside):
    norm = staticmethod(lambda x, weight, eps: narrow_norm(x, weight, eps * 1.01))


class OneRowAtATime(NarrowInside):
    cannot = ("batch",)


class NarrowBits(NarrowInside):
    norm = staticmethod(narrow_bits)


def checked(golden_path, checkpoint, name, *precisions, lift=True):
    question = Question(precisions=precisions, cases=("one-to-five",), lift=lift)
    return check(golden_path, checkpoint, f"tests.run.test_lifted_check:{name}", question)


def largest(report):
    return max(r.rel_rms for r in report.results if r.rel_rms is not None)


def test_lifting_brings_the_error_from_float32_to_float64(golden_path, checkpoint):
    plain = checked(golden_path, checkpoint, "NarrowInside", "float64", lift=False)
    assert plain.verdict == "diverged"
    assert largest(plain) > 1e-8
    lifted = checked(golden_path, checkpoint, "NarrowInside", "float64")
    assert lifted.verdict == "match"
    assert largest(lifted) < 1e-13
    assert "narrower dtypes" in lifted.notes[0]


def test_a_bug_below_the_noise_of_float32_stays_visible(golden_path, checkpoint):
    """eps is 1 % too large: 1e-8 of the norm's input."""
    report = checked(golden_path, checkpoint, "EpsTooLarge", "float64")
    assert {tap.rpartition(".")[2] for tap in report.introduced} == {"attn_norm", "mlp_norm", "final_norm"}


def test_a_port_that_is_already_wide_is_unchanged_by_lifting(golden_path, checkpoint):
    question = Question(precisions=("float64",), cases=("one-to-five",), lift=True)
    report = check(golden_path, checkpoint, question=question)
    assert report.verdict == "match"
    assert largest(report) < 1e-13


def test_what_a_port_declares_holds_for_the_lifted_port_too(golden_path, checkpoint):
    question = Question(precisions=("float64",), cases=("batch-left", "digits"), lift=True)
    report = check(golden_path, checkpoint, "tests.run.test_lifted_check:OneRowAtATime", question)
    assert {r.case for r in report.results} == {"digits"}
    assert "batch cases, which the port declares that it does not take: batch-left" in report.not_covered


@pytest.mark.parametrize("precisions", [("float64",), ("float64", "float32")])
def test_what_cannot_be_lifted_falls_back_to_float32_and_says_so(golden_path, checkpoint, precisions):
    report = checked(golden_path, checkpoint, "NarrowBits", *precisions)
    assert {r.precision for r in report.results} == {"float32"}
    assert report.verdict == "match"
    line = next(line for line in report.not_covered if line.startswith("precision float64"))
    assert "bitcast_convert_type at " in line
    assert "test_lifted_check.py" in line
    assert ("see float32" if "float32" in precisions else "float32 was checked instead") in line


def test_the_command_line_says_how_to_lift():
    args = ["check", "--port", "tests.run.test_lifted_check:LogitsNarrow", "--case", "digits"]
    result = CliRunner().invoke(cli, [*args, "--precision", "float64"])
    assert result.exit_code == 2
    assert "--lift" in result.stderr
    result = CliRunner().invoke(cli, [*args, "--precision", "float64", "--lift"])
    assert result.exit_code == 0, result.output
    assert "were lifted" in result.stdout


class LogitsNarrow(Wrapped):
    def forward(self, *args):
        logits, cache = super().forward(*args)
        return logits.astype(jnp.float32), cache


def test_a_tap_that_spans_operations_is_judged_by_the_noise_of_all_of_them(golden_path):
    from harness.run.comparing import Judgement
    from harness.run.port import Declarations
    from harness.run.session import CaseSession
    from harness.run.source import GoldenSource
    from harness.store import open_golden
    from harness.tolerances import limit

    def multiples(without):
        results = []
        with open_golden(golden_path) as golden:
            case = golden.manifest.case("code")
            judgement = Judgement(limit("float32"), Declarations(without), results.append)
            session = CaseSession(GoldenSource(golden, "float32"), case, "replay", judgement)
            for tap in ("layers.2.context", "layers.2.attn_out", "layers.2.gate"):
                truth = golden.tap("code", tap)
                session(tap, jnp.asarray(truth * (1 + 1e-6), jnp.float32))
        return {r.tap.rpartition(".")[2]: r.rms_multiple for r in results}

    fine, coarse = multiples(()), multiples(("q_rope", "k_rope", "probs"))
    assert coarse["context"] < fine["context"] / 2  # it spans rotation, softmax and the mean of the values
    assert coarse["attn_out"] == fine["attn_out"]
    assert coarse["gate"] == fine["gate"]
