"""tokenizer.json is read, or refused in one line, whatever it holds."""

from __future__ import annotations

import json
import os

import pytest

from harness.bare_tokenizer import NAME, load, refusing, token_ids
from harness.errors import CorpusError


def change(checkpoint, **fields):
    path = checkpoint / NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_padding_and_truncation_of_the_file_are_for_others(own_checkpoint):
    before = token_ids(load(own_checkpoint)[0], "Hello world", "here")
    padding = {"direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "x", "pad_to_multiple_of": None}
    change(
        own_checkpoint,
        padding=padding | {"strategy": {"Fixed": 10**9}},
        truncation={"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0},
    )
    assert token_ids(load(own_checkpoint)[0], "Hello world", "here") == before


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"version": "1.0"}', '{"model": {"type": "BPE"}}'])
def test_what_is_no_tokenizer_is_refused(own_checkpoint, content):
    (own_checkpoint / NAME).write_text(content)
    with pytest.raises(CorpusError, match="tokenizer cannot be read") as refusal:
        load(own_checkpoint)
    assert len(str(refusal.value)) < 1000


def test_what_is_not_there_or_no_file_is_refused_and_not_waited_for(own_checkpoint):
    (own_checkpoint / NAME).unlink()
    with pytest.raises(CorpusError, match="No such file"):
        load(own_checkpoint)
    os.mkfifo(own_checkpoint / NAME)
    with pytest.raises(CorpusError, match="a FIFO"):
        load(own_checkpoint)


def test_a_lone_surrogate_is_no_text(checkpoint):
    with pytest.raises(CorpusError, match="cannot be tokenized") as refusal:
        token_ids(load(checkpoint)[0], "\ud800", "prompt half")
    assert refusal.value.where == "prompt half"


def test_a_panic_of_the_library_is_a_refusal_and_ctrl_c_is_not():
    class PanicException(BaseException):
        pass

    with pytest.raises(CorpusError, match="problem: index out of bounds"), refusing("problem", "here", "hint"):
        raise PanicException("index out of bounds")
    with pytest.raises(KeyboardInterrupt), refusing("problem", "here", "hint"):
        raise KeyboardInterrupt
