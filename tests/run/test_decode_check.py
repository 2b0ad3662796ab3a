"""Cases with a cache, padding, kept positions and generation, as a check runs and reports them."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from harness.architecture import read_config
from harness.errors import PortError
from harness.logits import Continuation, agreement, first_mismatch
from harness.mutants.catalogue import CATALOGUE
from harness.mutants.planting import loader as planted
from harness.run.check import check
from harness.run.decoder import Decoder
from harness.run.operations import OPERATIONS
from harness.run.question import Question
from harness.run.tapping import no_tap
from tests.run.ports import Wrapped

FLOAT32 = Question(precisions=("float32",))


class WithCache(Wrapped):
    """A foreign port with a cache: plain `forward`, called step by step."""

    def init_cache(self, batch, length, dtype):
        return self._inner.init_cache(batch, length, dtype)


def loader(kind):
    return lambda directory, config, dtype: kind.load(directory, config, dtype, None)


def test_decode_is_one_compilation_for_all_steps_and_one_for_each_length_of_prefill(golden_path, checkpoint):
    traces = []

    def counted(gate, up):
        traces.append(gate.shape[1])
        return OPERATIONS.gated(gate, up)

    def load(directory, config, dtype):
        return Decoder.load(directory, config, dtype, operations=replace(OPERATIONS, gated=counted))

    check(golden_path, checkpoint, question=replace(FLOAT32, cases=("decode", "chunked")), load=load)
    # decode: 9 tokens, then 8 steps; chunked: 5 and 11, then 2 steps; 4 layers, 2 modes: 96 calls of a layer.
    # The port's own prefills, of 17 and 18 tokens, go the way of prompts: one compilation for lengths up to 64.
    # The audit of precision settings traces every call of another shape once more, the prefills unpadded.
    assert sorted(traces) == sorted([1, 1, 5, 9, 11, 64, *(9, 1), *(5, 11, 1), 17, 18])


def test_a_port_that_is_called_step_by_step_matches(golden_path, checkpoint):
    question = replace(FLOAT32, cases=("decode", "chunked", "batch-decode"))
    report = check(golden_path, checkpoint, "steps", question, load=loader(WithCache))
    assert report.verdict == "match"
    assert {r.calls for r in report.results} == {(9, *[1] * 8), (5, 11, 1, 1), (6, 1, 1, 1)}
    assert {r.mode for r in report.results if r.tap.endswith("cache_k")} == {"forward", "replay", "prefill"}


def test_cases_with_a_cache_are_not_covered_by_a_port_without_one_and_never_passed(golden_path, checkpoint):
    question = replace(FLOAT32, cases=("decode", "digits", "greedy"))
    report = check(golden_path, checkpoint, "none", question, load=loader(Wrapped))
    assert {r.case for r in report.results} == {"digits"}
    assert "cases with a KV cache, which the port does not have (init_cache): decode, greedy" in report.not_covered
    assert report.generations == ()
    with pytest.raises(PortError, match="none of the cases") as refusal:
        check(golden_path, checkpoint, "none", replace(FLOAT32, cases=("decode",)), load=loader(Wrapped))
    assert "init_cache" in str(refusal.value)


def test_a_kind_of_case_that_a_port_declares_that_it_cannot_is_not_covered(golden_path, checkpoint):
    class Single(Wrapped):
        cannot = ("batch",)

    question = replace(FLOAT32, cases=("batch-left", "digits"))
    report = check(golden_path, checkpoint, "single", question, load=loader(Single))
    assert "batch cases, which the port declares that it does not take: batch-left" in report.not_covered

    class Nonsense(Wrapped):
        cannot = ("batches",)

    with pytest.raises(PortError, match="a kind of case that does not exist"):
        check(golden_path, checkpoint, "nonsense", question, load=loader(Nonsense))


def test_kept_positions_are_judged_and_named_and_padding_has_no_figure(golden_path, checkpoint):
    report = check(golden_path, checkpoint, question=replace(FLOAT32, cases=("longest", "batch-left")))
    assert "positions of longest beside the 8 of 628 that are stored" in report.not_covered
    longest = next(r for r in report.results if (r.case, r.tap) == ("longest", "logits"))
    assert len(longest.profile) == 8
    assert longest.worst.index["position"] in (0, 1, 255, 257, 300, 511, 513, 627)
    for result in report.results:
        if result.case == "batch-left" and result.profile[0] is None:
            assert result.profile[-1] is not None
            break
    else:
        raise AssertionError("no row with padding on the left was the worst of any tap")


def test_a_cache_without_room_is_refused_before_jax_clamps(checkpoint):
    decoder = Decoder.load(checkpoint, read_config(checkpoint), jnp.dtype("float32"))
    cache = decoder.init_cache(1, 3, jnp.dtype("float32"))
    ids, mask = jnp.ones((1, 2), jnp.int32), jnp.ones((1, 3), bool)
    _, cache = decoder.forward(ids, jnp.asarray([[0, 1]], jnp.int32), mask, cache, no_tap)
    with pytest.raises(PortError, match="no room") as refusal:
        decoder.forward(ids, jnp.asarray([[2, 3]], jnp.int32), mask, cache, no_tap)
    assert "at most 1 more of 3" in str(refusal.value)


def test_a_step_that_is_not_tapped_is_missing_and_says_which(golden_path, checkpoint):
    class Forgets(WithCache):
        def forward(self, input_ids, positions, mask, cache, tap):
            late = cache is not None and int(cache.filled) > 10

            def hiding(name, value):
                return value if late and name == "layers.1.cache_k" else tap(name, value)

            return super().forward(input_ids, positions, mask, cache, hiding)

    question = replace(FLOAT32, modes=("forward",), cases=("decode",))
    report = check(golden_path, checkpoint, "forgets", question, load=loader(Forgets))
    missing = [r for r in report.results if r.verdict == "missing"]
    assert [(r.tap, r.found) for r in missing] == [("layers.1.cache_k", "not tapped in call 3")]


def test_the_built_in_port_writes_what_pytorch_writes(golden_path, checkpoint):
    report = check(golden_path, checkpoint, question=Question(cases=("greedy",)))
    assert [(one.precision, one.agreed, one.tokens) for one in report.generations] == [
        ("float64", 32, 32),
        ("float32", 32, 32),
    ]
    assert report.acceptance.generation == "32 of 32 tokens as the reference wrote them"


def test_a_port_that_writes_something_else_has_diverged_and_its_first_token_is_judged(golden_path, checkpoint):
    mutant = next(mutant for mutant in CATALOGUE if mutant.id == "decode_position_zero")
    question = replace(FLOAT32, cases=("greedy",))
    report = check(golden_path, checkpoint, mutant.id, question, load=planted(mutant))
    (written,) = report.generations
    assert written.agreed < 32 and not written.mismatch.tie
    assert report.verdict == "diverged" and not report.acceptance.passed
    assert "a real divergence: token" in report.acceptance.generation


def test_a_margin_within_twice_the_noise_is_a_tie_and_says_both_figures():
    logits = np.array([1.0, 3.0, 2.9])
    tie, real = (first_mismatch(7, 1, 2, logits, noise) for noise in (0.06, 0.04))
    assert tie.tie and not real.tie
    written = Continuation("a", "bfloat16", 8, 5, None, tie)
    assert written.verdict == "match"
    assert "then a tie: token 2 for 1, margin 0.1, PyTorch's own noise 0.06" in written.text
    assert Continuation("a", "bfloat16", 8, 5, None, real).verdict == "diverged"


@pytest.mark.parametrize(("written", "length"), [([1, 2, 3], 3), ([1, 5, 3], 1), ([], 0), ([1, 2], 2)])
def test_agreement_ends_at_the_first_other_token(written, length):
    assert agreement(written, [1, 2, 3]) == length
