"""Set cover, criteria, batches and masks at exact lengths."""

from __future__ import annotations

import itertools
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.comparison import Place, compare
from harness.errors import UsageError
from harness.logits import Continuation
from harness.mutants.audit import refuse_without_logits
from harness.mutants.batches import at_exact_lengths, batches
from harness.mutants.cover import smallest_cover
from harness.mutants.criteria import CRITERIA, figures_of, says_no
from harness.report.audit_document import GREEDY
from harness.results import Flip
from harness.run.operations import NO_WINDOW, OPERATIONS
from harness.store import open_golden
from harness.taps import Tap
from harness.tolerances import limit

SETS = st.dictionaries(st.sampled_from("abcdefg"), st.frozensets(st.integers(0, 9)), max_size=7)


@settings(max_examples=150, deadline=None)
@given(SETS)
def test_no_smaller_set_of_cases_catches_as_much(catches):
    found = smallest_cover(catches)
    everything = frozenset().union(*catches.values())
    assert frozenset().union(*(catches[name] for name in found)) == everything
    for smaller in itertools.combinations(catches, max(len(found) - 1, 0)):
        covered = frozenset().union(*(catches[name] for name in smaller))
        assert covered != everything or not found


def test_a_case_that_catches_nothing_is_never_needed():
    assert smallest_cover({"a": frozenset(), "b": frozenset({1})}) == ("b",)
    assert smallest_cover({}) == ()


def figures(actual: np.ndarray, truth: np.ndarray):
    place = Place("a", "float64", "forward", Tap("logits", ("batch", "position", "vocab"), ()))
    return figures_of(compare(place, actual, truth, None, limit("float64"), actual.dtype.name))


def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, 3, 50)) * 3


def test_equal_logits_pass_every_criterion():
    assert says_no([figures(logits().astype(np.float32), logits())], ()) == ()


@pytest.mark.parametrize(
    ("change", "rejecting"),
    [
        (lambda x: x + 2e-4, {"max abs 1e-4, mean 1e-5"}),
        (lambda x: x + 0.1, {"max abs 1e-4, mean 1e-5", "allclose, atol 1e-3"}),
        (lambda x: x / 2, set(CRITERIA) - {"PCC 0.99", "top-1 equal"}),
        (lambda x: -x, set(CRITERIA)),
        (lambda x: x * np.nan, set(CRITERIA)),
    ],
    ids=["slightly shifted", "shifted", "halved", "negated", "nan"],
)
def test_each_criterion_sees_what_it_can(change, rejecting):
    """A shift is invisible to KL and correlation, a scale to correlation and top-1."""
    assert set(says_no([figures(change(logits()), logits())], ())) == rejecting


def test_another_token_is_rejected_unless_it_is_a_tie():
    tie, real = (
        Continuation("a", "float32", 8, 5, None, Flip(7, 1, 2, 0.1, 0.06, tie=tie)) for tie in (True, False)
    )
    same = Continuation("a", "float32", 8, 8)
    right = figures(logits(), logits())
    assert says_no([right], [same, tie]) == ()
    assert says_no([right], [same, real]) == (GREEDY,)


def test_one_case_is_enough_to_reject():
    good, bad = figures(logits(), logits()), figures(-logits(), logits())
    assert set(says_no([good, bad, good], ())) == set(CRITERIA)


def test_a_case_is_cut_out_of_its_batch_as_it_went_in(golden_path):
    with open_golden(golden_path) as golden:
        cases = [case for case in golden.manifest.cases if not case.cached and not case.kept]
        made = batches(golden, cases)
        assert sorted(rows.entry.name for batch in made for rows in batch.cases) == sorted(c.name for c in cases)
        batch = made[0]
        assert len(batch.cases) > 20
        taps = {tap.name: tap for tap in golden.manifest.taps}
        for name in ("layers.1.probs", "layers.0.q", "embed"):
            recorded = batch.recorded(name)
            goldens = {rows.entry.name: golden.tap(rows.entry.name, name) for rows in recorded}
            sizes = {"batch": len(batch.lengths), "position": batch.mask.shape[1], "key": batch.mask.shape[1]}
            shape = [sizes.get(d, n) for d, n in zip(taps[name].dims, goldens["hello"].shape, strict=True)]
            whole = batch.replace(taps[name], np.full(shape, 7.0), goldens)
            for rows in recorded:
                assert np.array_equal(batch.cut(taps[name], rows, whole), goldens[rows.entry.name])
            others = [rows for rows in batch.cases if rows not in recorded]
            assert all((batch.cut(taps[name], rows, whole) == 7).all() for rows in others)


def test_padding_is_kept_from_a_mask_that_shows_hidden_keys():
    scores = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 5, 5)), jnp.float32)
    mask = jnp.asarray([[True] * 5, [True, True, False, False, False]])

    def everything(mask, slots, window):
        return jnp.ones((1, 1, len(slots), mask.shape[1]), bool)

    exact = at_exact_lengths(replace(OPERATIONS, allowed=everything), (5, 2))
    probs = exact.probabilities(scores, exact.allowed(mask, jnp.arange(5), NO_WINDOW))
    alone = OPERATIONS.probabilities(scores[1:, :, :2, :2], jnp.ones((1, 1, 2, 2), bool))
    assert np.array_equal(probs[1:, :, :2, :2], alone)
    assert not np.asarray(probs[1, :, 2:]).any()


def test_a_golden_without_logits_is_not_audited(golden_path):
    with open_golden(golden_path) as golden:
        case = golden.manifest.cases[0]
        refuse_without_logits(golden.path, [case])
        with pytest.raises(UsageError, match="recorded without") as caught:
            refuse_without_logits(golden.path, [case, replace(case, taps=("embed",))])
    assert caught.value.found == f"no logits in {case.name}"
