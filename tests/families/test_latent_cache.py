"""Bugs of a latent cache: each is caught at what the cache holds, and in no case without steps."""

from __future__ import annotations

import pytest

from harness import embedded
from harness.architecture import architecture_of
from harness.families.graph import kinds_in
from harness.mutants import cache, latent_cache
from harness.mutants.applies import not_here
from harness.mutants.audit import AuditQuestion, audit
from harness.mutants.needs import CaseFacts, case_facts, of_architecture
from harness.record.families import config
from harness.store import open_golden

NAME = "deepseek-v3"
HELD = {"cache_latent", "cache_k_pe"}
# Of those that every cache has, the ones that are in what it holds.
COMMON = tuple(m for m in cache.MUTANTS if m.introduced >= HELD)
MUTANTS = (*COMMON, *latent_cache.MUTANTS)


@pytest.fixture(scope="module")
def audited():
    question = AuditQuestion(("float64",), tuple(mutant.id for mutant in MUTANTS), ("left-decode",))
    found = audit(embedded.directory() / f"{NAME}.h5", embedded.directory() / NAME, question)
    return {one.id: one.results[0] for one in found.mutants}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_it_is_caught_where_it_sits(mutant, audited):
    result, here = audited[mutant.id], kinds_in(architecture_of(config(NAME)))
    assert (result.outcome, result.named, set(result.introduced)) == ("caught", True, mutant.introduced & here)


def test_caches_of_heads_have_none_of_their_own():
    model = of_architecture(config("llama3"))
    assert all(not_here(mutant, model) for mutant in latent_cache.MUTANTS)
    assert not any(not_here(mutant, model) for mutant in COMMON)


def test_whose_row_it_is_shows_in_a_batch_alone():
    facts = CaseFacts("chunks", tokens=8, furthest=7, padded_left=False, counted=True, steps=3)
    needs = next(mutant.needs for mutant in MUTANTS if mutant.id == "latent_of_first_row")
    assert [need.lacking for need in needs if need.of == "case" and not need.holds(facts)] == [
        "no case has several rows and a cache"
    ]
    with open_golden(embedded.directory() / f"{NAME}.h5") as golden:
        rows = {entry.name: case_facts(golden, entry).rows for entry in golden.manifest.cases}
    assert (rows["chunks"], rows["left-decode"]) == (1, 2)
