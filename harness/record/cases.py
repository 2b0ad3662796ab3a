"""From corpus entries and their token ids to cases: ids, positions, mask and calls, as transformers makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import psutil

from harness.along import Case, prompt_case
from harness.entries import FARTHEST, Batch, Decode, Entry, Generation, Offset, Prompt, refused
from harness.families.frequencies import ORIGINAL, is_beyond
from harness.families.options import Architecture, Rope
from harness.selecting import positions_of

Ids = Sequence[int]


def cases_of(
    arch: Architecture, entries: Sequence[Entry], ids: Mapping[str, Ids], generated: Mapping[str, Ids], pad: int
) -> tuple[Case, ...]:
    """The case of every entry (`case_of`).

    Raises:
        CorpusError: the model or this machine cannot run one: it is too long, or has positions that are not there.
    """
    cases = tuple(case_of(entry, ids, generated, pad) for entry in entries)
    for case in cases:
        check_size(case, arch.heads)
        check_positions(case, arch.learned_positions)
        check_one_regime(case, arch.ropes)
    return cases


def case_of(entry: Entry, ids: Mapping[str, Ids], generated: Mapping[str, Ids], pad: int) -> Case:
    """The case of an entry.

    Args:
        ids: token ids by name, of the entry's own text or of the prompts that are its rows.
        generated: by name, what the reference wrote after a generation's text.
        pad: the id that fills padding.

    Raises:
        CorpusError: too few tokens for the steps, chunks, starts or positions that the entry asks for.
    """
    if isinstance(entry, Batch):
        return _batch(entry, [ids[name] for name in entry.prompts], pad)
    own = list(ids[entry.name])
    if isinstance(entry, Generation):
        # The last token is written, but never read.
        own += list(generated[entry.name])[:-1]
        return replace(prompt_case(entry.name, own), calls=_calls(len(own), entry.tokens - 1))
    case = prompt_case(entry.name, own)
    if isinstance(entry, Decode):
        _enough(entry, len(own), sum(entry.chunks) + 1 + entry.steps)
        return replace(case, calls=_calls(len(own), entry.steps, entry.chunks))
    if isinstance(entry, Offset):
        _enough(entry, len(own), entry.starts[-1][0] + 1)
        return replace(case, positions=_jumping(entry, len(own)))
    assert isinstance(entry, Prompt)
    _enough(entry, len(own), max(kept_positions(entry, len(own)), default=0) + 1)
    return case


def has_cache(entry: Entry) -> bool:
    """Whether the case of an entry gets its tokens in several calls."""
    if isinstance(entry, Generation):
        return entry.tokens > 1
    return isinstance(entry, Decode) or (isinstance(entry, Batch) and entry.steps > 0)


def kept_positions(entry: Entry, length: int) -> tuple[int, ...]:
    """The positions of an entry that are stored; none means all."""
    if not isinstance(entry, Prompt):
        return ()
    kept = positions_of(entry.positions, length) if isinstance(entry.positions, str) else entry.positions
    return () if len(kept) == length else kept


def check_size(case: Case, heads: int) -> None:
    """Refuse a case whose attention probabilities alone are larger than this machine's memory.

    Raises:
        CorpusError: they are.
    """
    needed, there = case.batch * heads * case.length**2 * 8, psutil.virtual_memory().total
    if needed > there:
        problem = "a case is too long for this machine: its attention probabilities alone do not fit into memory"
        found = f"{needed:,} bytes, for {case.batch} x {case.length} tokens"
        hint = "give it a shorter text, or record on a larger machine"
        raise refused(problem, f"case {case.name}", f"at most {there:,} bytes", found, hint)


def check_positions(case: Case, rows: int) -> None:
    """Refuse a case with positions that a table of learned ones does not have.

    Args:
        rows: of the table; 0 where positions are not learned.

    Raises:
        CorpusError: it has some.
    """
    last = int(case.positions.max())
    if rows and last >= rows:
        problem = "a case has a position that the model has no embedding for"
        hint = "give it a shorter text or nearer starts, or leave it out: --case NAME for each of the others"
        raise refused(problem, f"case {case.name}", f"at most {rows - 1}", last, hint)


def check_one_regime(case: Case, ropes: Sequence[Rope | None]) -> None:
    """Refuse a case whose calls LongRoPE turns by different tables: keys in the cache would be of the other one.

    Raises:
        CorpusError: some calls are beyond the original length, and some are not.
    """
    rope = next((rope for rope in ropes if rope and rope.factors), None)
    if rope is None:
        return
    original = int(dict(rope.parameters)[ORIGINAL])
    last = [int(case.positions[:, span].max()) for span in case.spans]
    if len({is_beyond(rope, position) for position in last}) > 1:
        problem = "a case goes beyond the original length of LongRoPE in some of its calls"
        expected = f"calls that all end before position {original}, or none that does"
        found = f"calls that end at {', '.join(map(str, last))}"
        hint = "give it a shorter text, or starts that are farther"
        raise refused(problem, f"case {case.name}", expected, found, hint)


def _calls(length: int, steps: int, chunks: Sequence[int] = ()) -> tuple[int, ...]:
    """Chunks of the prefill, what remains of it, and one token per step; empty for a single call."""
    calls = (*chunks, length - sum(chunks) - steps, *[1] * steps)
    return calls if len(calls) > 1 else ()


def _jumping(entry: Offset, length: int) -> np.ndarray:
    positions = np.arange(length)
    for token, position in entry.starts:
        positions[token:] = np.arange(length - token) + position
    if positions[-1] > FARTHEST:
        problem, where = "a position is farther than float32 can count", f"offset {entry.name}, token {length - 1}"
        raise refused(problem, where, f"at most {FARTHEST}", int(positions[-1]), "let the last start be nearer")
    return positions[None].astype(np.int32)


def _batch(entry: Batch, rows: Sequence[Ids], pad: int) -> Case:
    """Rows padded to the longest. Positions count real tokens from 0, and are 0 at padding, as in `generate`."""
    length = max(len(row) for row in rows)
    _enough(entry, min(len(row) for row in rows), entry.steps + 1)
    input_ids = np.full((len(rows), length), pad, np.int32)
    mask = np.zeros((len(rows), length), bool)
    for index, row in enumerate(rows):
        where = slice(length - len(row), None) if entry.padding == "left" else slice(len(row))
        input_ids[index, where], mask[index, where] = row, True
    positions = np.where(mask, mask.cumsum(axis=1) - 1, 0).astype(np.int32)
    return Case(entry.name, input_ids, positions, mask, _calls(length, entry.steps))


def _enough(entry: Entry, tokens: int, needed: int) -> None:
    if tokens < needed:
        problem = f"a {entry.kind} has fewer tokens than it asks for"
        hint = "give it a longer text, or ask for less"
        expected = f"at least {needed}, for its chunks, steps, starts or positions"
        raise refused(problem, f"{entry.kind} {entry.name}", expected, tokens, hint)
