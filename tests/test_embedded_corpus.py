"""The fixed corpus: the published prompts word for word, each with its reason. Needs no torch."""

from __future__ import annotations

import json

import pytest

from harness import embedded
from harness.corpus import load_corpus
from harness.store import open_golden


@pytest.fixture(scope="module")
def corpus():
    return load_corpus(embedded.directory() / "corpus.toml")


@pytest.fixture(scope="module")
def facts():
    return json.loads((embedded.directory() / "qwen2_ids.json").read_text(encoding="utf-8"))


def test_every_prompt_has_published_ids_and_every_published_text_is_a_prompt(corpus, facts):
    assert [prompt.text for prompt in corpus.prompts] == list(facts["ids"])
    assert set(facts["normalized"]) <= set(facts["ids"])


def test_the_prompts_of_phase_3_are_there_word_for_word(corpus):
    phases = [prompt for prompt in corpus.prompts if any(tag.startswith("phase3") for tag in prompt.tags)]
    assert [prompt.text for prompt in phases] == [
        "Hello",
        "The",
        "123",
        "Hello world",
        "The quick brown",
        "Python is great",
        "1 2 3 4 5",
        "Testing multi token sequences for comparison",
    ]
    assert {prompt.level for prompt in phases} == {"ops"}


def test_there_are_prompts_of_every_sort_and_of_100_and_600_tokens(corpus, facts):
    tags = {tag for prompt in corpus.prompts for tag in prompt.tags}
    assert {"phase3.1", "phase3.2", "tokenization", "code", "repetition", "chat", "long"} <= tags
    lengths = sorted(len(ids) for ids in facts["ids"].values())
    assert lengths[-2] > 100 and lengths[-1] > 600


def test_every_prompt_says_why_in_its_own_words(corpus):
    whys = [prompt.why for prompt in corpus.prompts]
    assert len(set(whys)) == len(whys)
    assert min(len(why) for why in whys) > 40


def test_the_embedded_golden_holds_the_corpus_and_is_small():
    directory = embedded.directory()
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    assert size < 12.7e6 + 1.1e6 * len(embedded.goldens())
    with open_golden(embedded.golden()) as golden:
        corpus = load_corpus(directory / "corpus.toml")
        assert golden.manifest.corpus_sha256 == corpus.digest
        assert [(case.name, case.kind, case.why) for case in golden.manifest.cases] == [
            (entry.name, entry.kind, entry.why) for entry in corpus.entries
        ]
        assert [case.text for case in golden.manifest.cases][: len(corpus.prompts)] == [
            prompt.text for prompt in corpus.prompts
        ]
        assert golden.case("longest").length > 600
        assert max(golden.manifest.case("longest").kept) > 600, "the last of them is stored"
        far = golden.case("offset").positions[0]
        assert [int(far[far >= start][0]) for start in (0, 4_090, 32_760, 40_000)] == [0, 4_090, 32_760, 40_000]
        assert len(golden.manifest.case("decode").calls) == 1 + 8
        assert golden.manifest.case("greedy").generated == 32
        assert golden.case("long").length > 100
        assert golden.case("hello").length == 1
