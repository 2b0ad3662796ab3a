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


EVERY_KIND = (
    GOOD
    + """
[[decode]]
name = "steps"
text = "a b c"
why = "cache"
steps = 2
chunks = [1]

[[batch]]
name = "rows"
prompts = ["hello", "long"]
padding = "left"
why = "padding"

[[offset]]
name = "far"
text = "a b"
why = "angles"
starts = [[0, 0], [1, 4090]]

[[generation]]
name = "free"
text = "a"
why = "drift"
tokens = 3
"""
)


def test_every_kind_of_entry_is_read_in_the_order_of_kinds(tmp_path):
    corpus = load_corpus(write(tmp_path, EVERY_KIND))
    kinds = [(entry.name, entry.kind) for entry in corpus.entries]
    assert kinds[2:] == [("steps", "decode"), ("rows", "batch"), ("far", "offset"), ("free", "generation")]
    assert corpus.decodes[0].chunks == (1,)
    assert corpus.offsets[0].starts == ((0, 0), (1, 4090))
    assert corpus.generations[0].level == "logits"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 2", "steps = -1", "steps and chunks count tokens"),
        ("steps = 2\nchunks = [1]", "steps = 0", "is a prompt"),
        ("chunks = [1]", "chunks = 1", "chunks has the wrong type"),
        ("chunks = [1]", "chunks = [true]", "chunks has the wrong type"),
        ('padding = "left"', 'padding = "middle"', "an unknown padding"),
        ('padding = "left"', 'padding = "right"\nsteps = 1', "rows that decode are padded on the left"),
        ('prompts = ["hello", "long"]', 'prompts = ["hello", "far"]', "a batch names a prompt"),
        ('prompts = ["hello", "long"]', "", "a batch has no prompts"),
        ("starts = [[0, 0], [1, 4090]]", "starts = [[0, 0], [1]]", "starts has the wrong type"),
        ("starts = [[0, 0], [1, 4090]]", "starts = [[1, 0]]", "starts must ascend"),
        ("starts = [[0, 0], [1, 4090]]", "starts = [[0, 9], [1, 5]]", "starts must ascend"),
        ("tokens = 3", "tokens = 0", "at least one token"),
        ("tokens = 3", 'level = "ops"', "an unknown field"),
        ('name = "free"', 'name = "hello"', "two entries have one name"),
        ('level = "logits"', "positions = [4, 2]", "positions must ascend"),
        ("[[offset]]", "[[shift]]", "something that is no entry"),
    ],
)
def test_a_malformed_entry_of_any_kind_is_refused(tmp_path, old, new, message):
    assert old in EVERY_KIND
    with pytest.raises(CorpusError, match=message) as caught:
        load_corpus(write(tmp_path, EVERY_KIND.replace(old, new)))
    assert "hint:" in str(caught.value)
