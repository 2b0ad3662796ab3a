import os
import re
import time
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import embedded
from harness.along import Case, check_vocabulary, prompt_case
from harness.corpus import LONGEST, load_corpus
from harness.entries import FARTHEST, KINDS, MOST_TOKENS, Prompt, read_entry
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
        (GOOD.replace('text = "Hello"', 'text = ""'), "has no text"),
        (GOOD.replace('text = "Hello"', "text = 5"), "text has the wrong type"),
        (GOOD.replace('"hello"', '"../etc"'), "a bad name"),
        (GOOD.replace('"hello"', '"long"'), "two entries have one name"),
        (GOOD.replace('"logits"', '"everything"'), "an unknown level"),
        (GOOD.replace("tags =", "tag ="), "an unknown field"),
        (GOOD.replace('tags = ["phase3.1"]', 'tags = [["phase3.1"]]'), "tags has the wrong type"),
        (GOOD.replace('why = "one token"', "why = {}"), "why has the wrong type"),
        (GOOD.replace('level = "logits"', "positions = [9999999999]"), "positions has the wrong type"),
        (GOOD.replace('"a b"', '"\\ud800"'), "not readable TOML"),
        ("prompt = [1, 2]", "a prompt is not a table"),
        ("prompt = [[[]]]", "a prompt is not a table"),
        ("prompt = 5", "something that is no entry"),
        ("x = " + "[" * 10_000 + "]" * 10_000, "not readable TOML"),
        ("x = " + "9" * 10_000, "not readable TOML"),
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
        ("tokens = 3", f"tokens = {MOST_TOKENS + 1}", "too many tokens"),
        ("tokens = 3", f"tokens = {2**62}", "tokens has the wrong type"),
        ("steps = 2", f"steps = {2**62}", "steps has the wrong type"),
        ("[1, 4090]", f"[1, {2**40}]", "starts has the wrong type"),
        ("[1, 4090]", f"[1, {FARTHEST + 1}]", "farther than float32 can count"),
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


VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.sampled_from(["ops", "left", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("name", "text", "why", "tags", "level", "positions", "steps", "chunks", "prompts", "padding", "starts")


@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from((*FIELDS, "tokens", "x")), VALUES) | VALUES)
def test_whatever_a_table_holds_it_is_an_entry_or_refused_in_few_words(kind, table):
    whole = {"name": "a", "text": "a", "prompts": ["a"], "padding": "left", "starts": [[0, 0]]}
    for one in (table, whole | table if isinstance(table, dict) else table):
        known = {field: value for field, value in one.items() if field != "x"} if isinstance(one, dict) else one
        try:
            entry = read_entry(kind, known, "here")
        except CorpusError as refusal:
            assert len(str(refusal)) < 1000
        else:
            assert entry.kind == kind.kind


def test_a_why_may_be_left_out(tmp_path):
    corpus = load_corpus(write(tmp_path, GOOD.replace('why = "one token"', "")))
    assert [prompt.why for prompt in corpus.prompts] == ["", "positions"]


def many(number):
    prompts = "".join(f"[[prompt]]\nname = 'p{n}'\ntext = 'text {n}'\nwhy = 'w'\n" for n in range(number))
    rows = ", ".join(f"'p{n}'" for n in range(number))
    return f"{prompts}[[batch]]\nname = 'all'\nprompts = [{rows}]\npadding = 'left'\n"


def test_ten_thousand_prompts_are_read_in_a_time_that_grows_with_their_number(tmp_path):
    """TOML takes most of it; names that are compared pairwise would take a hundred times as long as a tenth."""
    took = []
    for number in (1_000, 10_000):
        path = write(tmp_path, many(number))
        started = time.process_time()
        corpus = load_corpus(path)
        names = [entry.name for entry in corpus.entries]
        assert len(corpus.select(names)) == number + 1
        assert all(corpus.prompt(name).name == name for name in names[:-1])
        took.append(time.process_time() - started)
    assert took[1] < 30 * max(took[0], 0.05)


def test_a_message_about_ten_thousand_prompts_is_short(tmp_path):
    corpus = load_corpus(write(tmp_path, many(10_000)))
    with pytest.raises(CorpusError) as refusal:
        corpus.select(["x" * 10_000])
    assert len(str(refusal.value)) < 1000 and "(10,001 in all)" in str(refusal.value)


def test_a_fifo_and_a_file_without_end_are_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(CorpusError, match="a FIFO"):
        load_corpus(tmp_path / "fifo")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(LONGEST + 1)
    with pytest.raises(CorpusError, match="longer than"):
        load_corpus(tmp_path / "huge")


def test_the_example_of_the_page_is_a_corpus(tmp_path):
    page = (embedded.directory() / "CORPUS.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    corpus = load_corpus(write(tmp_path, example))
    assert {entry.kind for entry in corpus.entries} == {kind.kind for kind in KINDS}
    assert all(entry.why for entry in corpus.entries)


def test_the_page_names_every_field_and_no_other():
    page = (embedded.directory() / "CORPUS.md").read_text(encoding="utf-8")
    table = page.partition("## Fields")[2]
    named = set(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE))
    assert named == {field.name for kind in KINDS for field in fields(kind) if field.init}
    assert f"{FARTHEST:,}" in page and f"{MOST_TOKENS:,}" in page


def test_a_prompt_needs_no_more_than_a_name_and_a_text():
    assert read_entry(Prompt, {"name": "a", "text": "b"}, "here") == Prompt("a", "b")
