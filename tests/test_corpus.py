import numpy as np
import pytest

from harness.corpus import Case, check_vocabulary, load_corpus, prompt_case
from harness.errors import CorpusError

GOOD = """
[[prompt]]
name = "hello"
text = "Hello"
tags = ["phase3.1"]
why = "one token"

[[prompt]]
name = "long"
text = "a b"
why = "positions"
level = "logits"
"""


def write(tmp_path, text):
    path = tmp_path / "corpus.toml"
    path.write_text(text)
    return path


def test_a_corpus_is_read_in_its_order(tmp_path):
    corpus = load_corpus(write(tmp_path, GOOD))
    assert [(p.name, p.level) for p in corpus.prompts] == [("hello", "ops"), ("long", "logits")]


def test_the_digest_ignores_comments_and_sees_every_change_of_content(tmp_path):
    digest = load_corpus(write(tmp_path, GOOD)).digest
    assert load_corpus(write(tmp_path, "# remark\n" + GOOD)).digest == digest
    assert load_corpus(write(tmp_path, GOOD.replace('"a b"', '"a  b"'))).digest != digest
    assert load_corpus(write(tmp_path, GOOD.replace('"logits"', '"layers"'))).digest != digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no prompts"),
        ("[[prompt", "not readable TOML"),
        (GOOD.replace('name = "hello"', ""), "has no name"),
        (GOOD.replace('why = "one token"', ""), "has no why"),
        (GOOD.replace('text = "Hello"', 'text = ""'), "has no text"),
        (GOOD.replace('text = "Hello"', "text = 5"), "text has the wrong type"),
        (GOOD.replace('"hello"', '"../etc"'), "a bad name"),
        (GOOD.replace('"hello"', '"long"'), "two entries have one name"),
        (GOOD.replace('"logits"', '"everything"'), "an unknown level"),
        (GOOD.replace("tags =", "tag ="), "an unknown field"),
    ],
)
def test_a_malformed_corpus_is_refused(tmp_path, text, message):
    with pytest.raises(CorpusError, match=message) as caught:
        load_corpus(write(tmp_path, text))
    assert "hint:" in str(caught.value)


def test_a_missing_corpus_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="does not exist"):
        load_corpus(tmp_path / "none.toml")


def test_an_unknown_prompt_is_refused_with_the_known_names(tmp_path):
    corpus = load_corpus(write(tmp_path, GOOD))
    assert [entry.name for entry in corpus.select(["long"])] == ["long"]
    with pytest.raises(CorpusError) as caught:
        corpus.select(["lnog"])
    assert "hello, long" in str(caught.value)


def test_a_prompt_case_counts_positions_from_zero():
    case = prompt_case("x", [5, 6, 7])
    assert case.input_ids.tolist() == [[5, 6, 7]]
    assert case.positions.tolist() == [[0, 1, 2]]
    assert case.mask.all()
    assert (case.batch, case.length) == (1, 3)


@pytest.mark.parametrize("bad", [-1, 10, 2**31 - 1])
def test_an_id_outside_the_vocabulary_is_refused_and_located(bad):
    case = prompt_case("x", [0, 9, bad])
    with pytest.raises(CorpusError) as caught:
        check_vocabulary(case, vocab=10)
    assert "case x, row 0, position 2" in str(caught.value)
    assert "0 to 9" in str(caught.value)


def test_ids_inside_the_vocabulary_are_accepted():
    ids = np.array([[0, 9]], np.int32)
    check_vocabulary(Case("x", ids, ids, ids > -1), vocab=10)
