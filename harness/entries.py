"""The kinds of entry that a corpus has, and how each is read from TOML. See goldens/CORPUS.md.

    [[prompt]]      one text, one forward pass
    [[decode]]      one text through a KV cache: prefill, in one chunk or more, then one token at a time
    [[batch]]       several prompts of this corpus side by side, padded
    [[offset]]      one text whose positions jump: near and far ones in one row
    [[generation]]  one text, continued greedily by the reference

Each should have a `why`: the class of bug that it sees and its neighbours do not.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from harness.errors import CorpusError
from harness.golden import CASE_NAME
from harness.selecting import EXAMPLE, LEVELS, is_rule

PADDINGS = ("left", "right")
LARGEST = 2**31 - 1  # of any number: lengths, steps and positions are int32
FARTHEST = 2**24  # of a position: float32, in which RoPE counts, holds every whole number up to here
MOST_TOKENS = 2**16  # of a generation: each is a pass over all weights
SEE_THE_FORM = "see goldens/CORPUS.md for the form"
OPTIONAL = ("why", "tags", "level", "positions", "steps", "chunks", "tokens")


@dataclass(frozen=True)
class Prompt:
    """One corpus entry: its text, and the class of bug that only it can see.

    Attributes:
        level: the deepest level at which it is recorded.
        positions: the positions whose taps are stored, or a rule for them (`harness.selecting`); empty means all.
            Long prompts stay small by it.
    """

    kind: ClassVar[str] = "prompt"
    name: str
    text: str
    why: str = ""
    tags: tuple[str, ...] = ()
    level: str = "ops"
    positions: tuple[int, ...] | str = ()


@dataclass(frozen=True)
class Decode:
    """A text along which the model decodes: its last `steps` tokens come one by one, the rest as prefill.

    Attributes:
        chunks: lengths of all chunks of the prefill but the last, which is what remains; empty means one chunk.
    """

    kind: ClassVar[str] = "decode"
    name: str
    text: str
    why: str = ""
    tags: tuple[str, ...] = ()
    level: str = "ops"
    steps: int = 8
    chunks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Prompts of this corpus side by side, padded on one side; with `steps`, their last tokens come one by one."""

    kind: ClassVar[str] = "batch"
    name: str
    prompts: tuple[str, ...]
    padding: str
    why: str = ""
    tags: tuple[str, ...] = ()
    level: str = "ops"
    steps: int = 0


@dataclass(frozen=True)
class Offset:
    """A text whose positions jump: from token `starts[i][0]` on they count from `starts[i][1]`."""

    kind: ClassVar[str] = "offset"
    name: str
    text: str
    starts: tuple[tuple[int, int], ...]
    why: str = ""
    tags: tuple[str, ...] = ()
    level: str = "ops"


@dataclass(frozen=True)
class Generation:
    """A text that the reference continues greedily; the case is a decode along what it wrote."""

    kind: ClassVar[str] = "generation"
    name: str
    text: str
    why: str = ""
    tags: tuple[str, ...] = ()
    level: str = field(default="logits", init=False)
    tokens: int = 32


Entry = Prompt | Decode | Batch | Offset | Generation
KINDS: tuple[type[Entry], ...] = (Prompt, Decode, Batch, Offset, Generation)


def read_entry(kind: type[Entry], table: object, where: str) -> Entry:
    """One TOML table as an entry.

    Raises:
        CorpusError: a field is missing, unknown, or of the wrong type or value.
    """
    known = {field.name: str(field.type) for field in fields(kind) if field.init}
    if not isinstance(table, Mapping):
        raise CorpusError(f"a {kind.kind} is not a table", where, f"[[{kind.kind}]]", hint=SEE_THE_FORM)
    for name, form in known.items():
        if name not in OPTIONAL and not table.get(name):
            needed = ", ".join(field for field in known if field not in OPTIONAL)
            raise CorpusError(f"a {kind.kind} has no {name}", where=where, hint=f"every {kind.kind} has {needed}")
        if name in table and not _fits(table[name], form):
            raise refused(f"a {kind.kind}'s {name} has the wrong type", where, form, reprlib.repr(table[name]))
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise _bad(f"a {kind.kind} has an unknown field", where, ", ".join(known), listed(unknown))
    entry = kind(**{name: _frozen(value) for name, value in table.items()})
    _check(entry, where)
    return entry


def _check(entry: Entry, where: str) -> None:
    """The values, one by one: a message for each."""
    if not CASE_NAME.fullmatch(entry.name):
        raise _bad("a bad name", where, CASE_NAME.pattern, entry.name)
    if entry.level not in LEVELS:
        raise _bad("an unknown level", where, ", ".join(LEVELS), entry.level)
    if isinstance(entry, Prompt):
        _check_positions(entry.positions, where)
    if isinstance(entry, Decode):
        if entry.steps < 0 or min(entry.chunks, default=1) < 1:
            raise _bad("steps and chunks count tokens", where, "0 or more, 1 or more", (entry.steps, entry.chunks))
        if entry.steps == 0 and not entry.chunks:
            raise _bad("a decode without steps and chunks is a prompt", where, "steps = 8", "steps = 0")
    if isinstance(entry, Batch):
        if entry.padding not in PADDINGS:
            raise _bad("an unknown padding", where, " or ".join(PADDINGS), entry.padding)
        if entry.steps < 0 or (entry.steps and entry.padding == "right"):
            raise _bad("rows that decode are padded on the left", where, 'padding = "left"', entry.padding)
    if isinstance(entry, Offset):
        tokens, positions = zip(*entry.starts, strict=True)
        if tokens[0] != 0 or not (_ascending(tokens) and _ascending(positions)):
            raise _bad("starts must ascend, from token 0 on", where, "[[0, 0], [4, 4090]]", list(entry.starts))
        if positions[-1] > FARTHEST:
            raise _bad("a position is farther than float32 can count", where, f"at most {FARTHEST}", positions[-1])
    if isinstance(entry, Generation):
        if entry.tokens < 1:
            raise _bad("a generation has at least one token", where, "tokens = 32", entry.tokens)
        if entry.tokens > MOST_TOKENS:
            raise _bad("a generation has too many tokens", where, f"at most {MOST_TOKENS}", entry.tokens)


def _check_positions(positions: tuple[int, ...] | str, where: str) -> None:
    if isinstance(positions, str):
        if not is_rule(positions):
            raise _bad("positions are neither a list nor a rule", where, f'"{EXAMPLE}"', positions)
    elif not _ascending(positions):
        raise _bad("positions must ascend from 0 or more", where, "[0, 255, 256]", list(positions))


def _fits(value: object, form: str) -> bool:
    """Whether a TOML value has the form of an annotation; bool is no int here, nor is what no array can count."""
    if " | " in form:
        return any(_fits(value, part) for part in form.split(" | "))
    if form == "int":
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST
    if form == "str":
        return isinstance(value, str)
    if not isinstance(value, list):
        return False
    item = form.removeprefix("tuple[").partition(",")[0]
    if item == "tuple[int":
        return all(
            isinstance(pair, list) and len(pair) == 2 and all(_fits(n, "int") for n in pair) for pair in value
        )
    return all(_fits(element, item) for element in value)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(element) for element in value) if isinstance(value, list) else value


def _ascending(values: tuple[int, ...]) -> bool:
    return all(a < b for a, b in zip((-1, *values), values, strict=False))


def _bad(problem: str, where: str, expected: object, found: object) -> CorpusError:
    return refused(problem, where, expected, shown(found), "mend the corpus file")


def refused(problem: str, where: object, expected: object, found: object, hint: str = SEE_THE_FORM) -> CorpusError:
    """The refusal of a corpus, of an entry of it, or of the case that comes of one."""
    return CorpusError(problem, where, expected, found, hint=hint)


def shown(value: object) -> str:
    """A value of a corpus in a message: short, however long it is."""
    text = value if isinstance(value, str) else reprlib.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def listed(names: Iterable[str], most: int = 20) -> str:
    """Names in a message: the first of them, and how many there are."""
    names = list(names)
    more = f", ... ({len(names):,} in all)" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + more
