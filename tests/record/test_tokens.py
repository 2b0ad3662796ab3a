"""Token ids: transformers, tokenizer.json alone, and for Qwen2 the published facts, must agree."""

from __future__ import annotations

import json
import shutil

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from harness.corpus import Corpus
from harness.entries import Prompt
from harness.errors import CorpusError
from harness.record.tokens import tokenize

QWEN2 = {"<|endoftext|>": 151643, "<|im_start|>": 151644}
WORDS = {"Hello": 9707, "The": 785, "[unknown]": 0, **QWEN2}
COMBINING = "e\u0301"


def prompts(*texts):
    corpus = Corpus(tuple(Prompt(f"prompt-{n}", text, "why") for n, text in enumerate(texts)))
    return corpus, corpus.entries


@pytest.fixture
def words(tmp_path):
    """Writes a tokenizer of whole words with the ids given; no config.json, so it is loaded as it is."""

    def write(vocabulary, normalizer=None):
        made = Tokenizer(models.WordLevel(vocabulary, unk_token="[unknown]"))
        made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        if normalizer:
            made.normalizer = normalizer
        made.save(str(tmp_path / "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        return tmp_path

    return write


def test_qwen2_is_known_by_its_special_tokens(words):
    result = tokenize(words(WORDS), *prompts("Hello", "The"), 151936)
    assert result.tokenizer.published == "Qwen2"
    assert list(result.ids.values()) == [[9707], [785]]


def test_other_ids_than_the_published_ones_are_refused_where_the_tokenizer_is_qwen2s(words):
    with pytest.raises(CorpusError, match="does not give Qwen2's token ids") as refusal:
        tokenize(words(WORDS | {"Hello": 9708}), *prompts("The", "Hello"), 151936)
    error = refusal.value
    assert (error.where, error.expected, error.found) == ("prompt prompt-1", "[9707]", "[9708]")


def test_other_ids_are_fine_where_the_tokenizer_is_another(words):
    result = tokenize(words(WORDS | {"Hello": 9708, "<|im_start|>": 3}), *prompts("Hello"), 151936)
    assert not result.tokenizer.published


def test_a_text_that_nothing_is_published_for_is_not_checked(words):
    assert tokenize(words(WORDS), *prompts("Hello The"), 151936).ids == {"prompt-0": [9707, 785]}


def test_both_published_forms_of_a_combining_accent_are_qwen2s(words):
    composed = tokenize(words(WORDS | {"\u00e9": 963}, normalizers.NFC()), *prompts(COMBINING), 151936)
    assert composed.ids == {"prompt-0": [963]}
    with pytest.raises(CorpusError, match="Qwen2") as refusal:
        tokenize(words(WORDS | {COMBINING: 68}), *prompts(COMBINING), 151936)
    assert refusal.value.expected == "[68, 53839] or [963]"


def test_special_tokens_are_not_added(tiny):
    assert len(tokenize(tiny, *prompts("Hello"), 608).ids["prompt-0"]) == 1


def test_an_id_beyond_the_vocabulary_is_refused(words):
    with pytest.raises(CorpusError, match="outside the vocabulary") as refusal:
        tokenize(words(WORDS), *prompts("The", "Hello"), 9707)
    assert "prompt-1" in str(refusal.value.where)


def test_a_prompt_without_tokens_is_refused(words):
    with pytest.raises(CorpusError, match="no tokens") as refusal:
        tokenize(words(WORDS), *prompts(" "), 151936)
    assert refusal.value.where == "prompt-0"


def test_a_tokenizer_that_transformers_changes_as_it_loads_it_is_refused(tiny, tmp_path):
    """transformers gives every Qwen2 tokenizer an NFC normalizer; the checking side would not have it."""
    directory = shutil.copytree(tiny, tmp_path / "changed")
    document = json.loads((directory / "tokenizer.json").read_text())
    document["normalizer"] = None
    (directory / "tokenizer.json").write_text(json.dumps(document))
    assert tokenize(directory, *prompts("Hello"), 608).ids
    with pytest.raises(CorpusError, match=r"transformers and tokenizer\.json") as refusal:
        tokenize(directory, *prompts("Hello", COMBINING), 608)
    assert refusal.value.where == "prompt prompt-1"


def test_a_missing_or_damaged_tokenizer_is_refused(tiny, tmp_path):
    with pytest.raises(CorpusError, match="cannot be read"):
        tokenize(tmp_path, *prompts("Hello"), 608)
    directory = shutil.copytree(tiny, tmp_path / "damaged")
    (directory / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(CorpusError, match="cannot be read"):
        tokenize(directory, *prompts("Hello"), 608)
