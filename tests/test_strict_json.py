"""JSON that readers could disagree about is refused; all other JSON is what Python makes of it."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.foreign import DEEPEST, parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_written_is_read(value):
    text = json.dumps(value, ensure_ascii=False)
    try:
        content = text.encode()
    except UnicodeEncodeError:
        return
    assert parse(content) == value


@given(st.binary(max_size=200))
def test_whatever_lies_there_is_read_or_a_value_error(content):
    with contextlib.suppress(ValueError):
        parse(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": 2, "a": 1}', "the key 'a' twice"),
        ('{"a": {"b": 1, "b": 2}}', "the key 'b' twice"),
        ('{"a": NaN}', "NaN is no JSON"),
        ("[-Infinity]", "-Infinity is no JSON"),
        ("1e999", "beyond every float"),
        ('"\\ud800"', "surrogates not allowed"),
        ('{"\\ud800": 1}', "surrogates not allowed"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "nested deeper"),
        ("[" * 100_000, "nested deeper"),
        ('{"a":' * 100_000, "nested deeper"),
        ("9" * 5000, "integer string conversion"),
        ("{", "Expecting"),
        ("", "Expecting value"),
    ],
)
def test_what_has_no_one_meaning_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text.encode())


def test_what_is_not_utf_8_is_refused():
    with pytest.raises(ValueError, match="utf-8"):
        parse(b'"\xff"')


def test_nesting_is_read_as_deep_as_is_said():
    assert parse(("[" * DEEPEST + "]" * DEEPEST).encode())
