"""Generators of what should lie nowhere: values, JSON and TOML that hold them, bytes that were damaged."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

TEXTS = st.text(max_size=12) | st.sampled_from(["", "\x00", "\ud800", "[/]", "../x", "ops", "é" * 300, "x" * 5000])
NUMBERS = st.one_of(
    st.integers(-3, 20),
    st.sampled_from([2**31 - 1, 2**31, 2**40, 2**62, 2**64, 10**9, 10**400, -(2**63)]),
    st.floats(),
    st.sampled_from([0.0, -0.0, 1e-300, 1e300, 0.5]),
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES: SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


def changed(base: Mapping[str, Any], fields: SearchStrategy[str]) -> SearchStrategy[dict[str, Any]]:
    """A mapping with one to three fields set to anything, or left out."""
    changes = st.dictionaries(fields, VALUES | st.just(Ellipsis), min_size=1, max_size=3)
    return changes.map(lambda made: {k: v for k, v in {**base, **made}.items() if v is not Ellipsis})


@st.composite
def json_bytes(draw: Any, values: SearchStrategy[Any]) -> bytes:
    """JSON of a value, as Python writes it (NaN, half surrogates and all), and sometimes worse."""
    text = json.dumps(draw(values), indent=draw(st.sampled_from([None, 2])))
    worse = draw(st.sampled_from(["", "", "", "twice", "deep", "damaged"]))
    if worse == "twice" and text.startswith("{") and len(text) > 4:
        text = f"{text[:-1].rstrip()}, {text[1:]}"
    if worse == "deep":
        text = text.replace(":", ':{"x":' * 2000, 1)
    content = text.encode()
    return draw(damaged(content)) if worse == "damaged" else content


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """Bytes with some changed, cut off, doubled or put in."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["set", "cut", "drop", "insert", "double"]))
        if kind == "set" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + draw(st.integers(1, 20))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        else:
            data += data[at:]
    return bytes(data)


def toml(document: Mapping[str, Any]) -> str:
    """TOML of tables of entries: `[[kind]]`, and everything within as inline values."""
    lines = []
    for kind, entries in document.items():
        if not isinstance(entries, list):
            lines.append(f"{json.dumps(kind)} = {_inline(entries)}")
            continue
        for entry in entries:
            lines.append(f"[[{json.dumps(kind)}]]")
            lines += [f"{json.dumps(name)} = {_inline(value)}" for name, value in entry.items()]
    return "\n".join(lines) + "\n"


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {_inline(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, float) and not float("-inf") < value < float("inf"):
        return str(value)
    return json.dumps("null" if value is None else value)


class Document:
    """A document of JSON. Shown by what was done to it: of the whole nobody could see that."""

    def __init__(self, value: Any, *edits: str) -> None:
        self.value, self.edits = value, edits

    def __repr__(self) -> str:
        return "; ".join(self.edits) or "a document"


def edited(base: Any) -> SearchStrategy[Document]:
    """A document with one to three parts of it set, left out, moved, repeated, renamed or counted on."""
    return _edited(Document(base))


@st.composite
def _edited(draw: Any, base: Document) -> Document:
    document, edits = copy.deepcopy(base.value), []
    for _ in range(draw(st.integers(1, 3))):
        holder, key, path = _part(draw, document)
        if holder is None:
            continue
        kind = draw(st.sampled_from(["set", "out", "other", "again", "rename", "count"]))
        old = holder[key]
        if kind == "set":
            holder[key] = draw(VALUES)
        elif kind == "other":
            source, at, _ = _part(draw, base.value)
            holder[key] = copy.deepcopy(source[at]) if source is not None else None
        elif kind == "out":
            del holder[key]
        elif kind == "again" and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(old))
        elif kind == "rename" and isinstance(holder, dict):
            name = draw(st.sampled_from(sorted(holder)) | TEXTS)
            holder[name] = holder.pop(key)
        elif isinstance(old, (int, float)):
            near = float(old) if abs(old) < 2**53 else 0.5  # what has been multiplied often is no float
            holder[key] = draw(st.sampled_from([old + 1, old - 1, -old, old * 2**31, near, not old]))
        elif isinstance(old, str):
            holder[key] = draw(st.sampled_from([old + "x", old[:-1], old.upper(), f"{old}.{old}", "../" + old]))
        now = holder[key] if isinstance(holder, list) and key < len(holder) else None
        now = holder.get(key) if isinstance(holder, dict) else now
        edits.append(f"{kind} {path}: {now!r:.200}")
    return Document(document, *edits)


def _part(draw: Any, document: Any) -> tuple[Any, Any, str]:
    """Somewhere in a document: what holds it, under which key, and the way there."""
    holder, key, path = None, None, ""
    while isinstance(document, (dict, list)) and document and (holder is None or draw(st.integers(0, 3))):
        keys = sorted(document) if isinstance(document, dict) else range(len(document))
        holder, key = document, draw(st.sampled_from(keys))
        document, path = document[key], f"{path}/{key}"
    return holder, key, path
