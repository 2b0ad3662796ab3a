"""The corpus: fixed prompts with the reason for each, and the cases that a model sees.

A corpus is a TOML file:

    [[prompt]]
    name = "hello"
    text = "Hello"
    tags = ["phase3.1"]
    why  = "one token at position 0: RoPE, mask, scale and cache cannot show here"
    level = "ops"            # optional: the deepest level at which this prompt is recorded
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from harness.errors import CorpusError
from harness.taps import LEVELS

CASE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Prompt:
    """One corpus entry: its text, and the class of bug that only it can see."""

    name: str
    text: str
    why: str
    tags: tuple[str, ...] = ()
    level: str = "ops"


@dataclass(frozen=True)
class Corpus:
    prompts: tuple[Prompt, ...]

    @property
    def digest(self) -> str:
        """sha256 over the prompts, independent of the file's layout and comments."""
        content = json.dumps([asdict(prompt) for prompt in self.prompts], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def select(self, names: Sequence[str]) -> Corpus:
        """The prompts of these names, in corpus order; all of them where no name is given.

        Raises:
            CorpusError: a name that the corpus does not have.
        """
        known = [prompt.name for prompt in self.prompts]
        for name in names:
            if name not in known:
                raise CorpusError(
                    "the corpus has no prompt of this name",
                    where=f"--case {name}",
                    expected=", ".join(known),
                    found=name,
                    hint="give one of the names above, or add the prompt to the corpus",
                )
        return Corpus(tuple(p for p in self.prompts if not names or p.name in names))


@dataclass(frozen=True, eq=False)
class Case:
    """One corpus entry as the model sees it.

    Attributes:
        input_ids: token ids, int32 [batch, position].
        positions: position of every token, int32 [batch, position].
        mask: False where a token is padding, bool [batch, position].
    """

    name: str
    input_ids: Int[np.ndarray, "batch position"]
    positions: Int[np.ndarray, "batch position"]
    mask: Bool[np.ndarray, "batch position"]

    @property
    def batch(self) -> int:
        return int(self.input_ids.shape[0])

    @property
    def length(self) -> int:
        return int(self.input_ids.shape[1])


def prompt_case(name: str, ids: Sequence[int]) -> Case:
    """The case of a single unpadded prompt: positions from 0, nothing masked."""
    input_ids = np.asarray([ids], np.int32)
    positions = np.arange(len(ids), dtype=np.int32)[None]
    return Case(name, input_ids, positions, np.ones_like(input_ids, bool))


def check_vocabulary(case: Case, vocab: int) -> None:
    """Refuse ids outside the embedding table: JAX would clamp them silently.

    Raises:
        CorpusError: an id below 0 or not below `vocab`.
    """
    outside = np.argwhere((case.input_ids < 0) | (case.input_ids >= vocab))
    if len(outside):
        row, position = outside[0]
        raise CorpusError(
            "a token id is outside the vocabulary",
            where=f"case {case.name}, row {row}, position {position}",
            expected=f"0 to {vocab - 1}",
            found=int(case.input_ids[row, position]),
            hint="the tokenizer does not belong to this checkpoint: use the one that ships with it",
        )


def load_corpus(path: Path) -> Corpus:
    """Read and validate a corpus file.

    Raises:
        CorpusError: unreadable, empty, a missing or unknown field, a bad or repeated name.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CorpusError(
            "the corpus file does not exist", where=path, hint="give a TOML file to --corpus"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CorpusError(
            f"the corpus is not readable TOML: {error}",
            where=path,
            hint="see the head of goldens/corpus.toml for the form",
        ) from None
    entries = document.get("prompt")
    if not isinstance(entries, list) or not entries:
        raise CorpusError(
            "the corpus holds no prompts",
            where=path,
            expected="[[prompt]] tables",
            found=", ".join(document) or "nothing",
            hint="see the head of goldens/corpus.toml for the form",
        )
    prompts = tuple(_prompt(entry, f"{path}, prompt {n}") for n, entry in enumerate(entries, 1))
    names = [prompt.name for prompt in prompts]
    for name in names:
        if names.count(name) > 1:
            raise CorpusError("two prompts have one name", where=path, found=name, hint="rename one of them")
    return Corpus(prompts)


def _prompt(entry: Mapping[str, Any], where: str) -> Prompt:
    fields = {"name": str, "text": str, "why": str, "tags": list, "level": str}
    for field, kind in fields.items():
        if field in ("name", "text", "why") and not entry.get(field):
            raise CorpusError(
                f"a prompt has no {field}", where=where, hint="every prompt has a name, a text and a why"
            )
        if field in entry and not isinstance(entry[field], kind):
            raise CorpusError(
                f"a prompt's {field} has the wrong type",
                where=where,
                expected=kind.__name__,
                found=repr(entry[field]),
                hint="see the head of goldens/corpus.toml for the form",
            )
    unknown = sorted(set(entry) - set(fields))
    level = entry.get("level", "ops")
    problems: Iterable[tuple[bool, str, object, object]] = (
        (bool(unknown), "a prompt has an unknown field", ", ".join(fields), ", ".join(unknown)),
        (not CASE_NAME.fullmatch(entry["name"]), "a bad name", CASE_NAME.pattern, entry["name"]),
        (level not in LEVELS, "an unknown level", ", ".join(LEVELS), level),
    )
    for wrong, problem, expected, found in problems:
        if wrong:
            raise CorpusError(problem, where=where, expected=expected, found=found, hint="mend the corpus file")
    tags = tuple(str(tag) for tag in entry.get("tags", ()))
    return Prompt(entry["name"], entry["text"], entry["why"], tags, level)
