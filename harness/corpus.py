"""The corpus: fixed prompts with the reason for each, and what a model makes cases of (`harness.along.Case`).

A corpus is a TOML file of `[[prompt]]`, `[[decode]]`, `[[batch]]`, `[[offset]]` and `[[generation]]` tables
(see `harness.entries`).
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness import entries
from harness.entries import Batch, Decode, Entry, Generation, Offset, Prompt
from harness.errors import CorpusError, first_line
from harness.foreign import MIB, read_text

LONGEST = 16 * MIB  # of a corpus file


@dataclass(frozen=True)
class Corpus:
    """Entries by kind. Cases are recorded and reported in the order of `entries`.

    Attributes:
        experts: of a mixture of experts, what each chosen one makes of a token is recorded too.
    """

    prompts: tuple[Prompt, ...] = ()
    decodes: tuple[Decode, ...] = ()
    batches: tuple[Batch, ...] = ()
    offsets: tuple[Offset, ...] = ()
    generations: tuple[Generation, ...] = ()
    experts: bool = False

    @property
    def entries(self) -> tuple[Entry, ...]:
        return (*self.prompts, *self.decodes, *self.batches, *self.offsets, *self.generations)

    @property
    def digest(self) -> str:
        """sha256 over the entries, independent of the file's layout and comments."""
        asked = [["experts", True]] if self.experts else []
        content = json.dumps([[entry.kind, asdict(entry)] for entry in self.entries] + asked, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def prompt(self, name: str) -> Prompt:
        return self._prompts[name]

    @cached_property
    def _prompts(self) -> Mapping[str, Prompt]:
        return {prompt.name: prompt for prompt in self.prompts}

    def select(self, names: Sequence[str]) -> tuple[Entry, ...]:
        """The entries of these names, in corpus order; all of them where no name is given.

        Raises:
            CorpusError: a name that the corpus does not have.
        """
        known, wanted = {entry.name: None for entry in self.entries}, set(names)
        for name in names:
            if name not in known:
                hint = "give one of the names above, or add the entry to the corpus"
                problem, asked = "the corpus has no entry of this name", entries.shown(name)
                raise CorpusError(problem, f"--case {asked}", entries.listed(known), asked, hint=hint)
        return tuple(entry for entry in self.entries if not names or entry.name in wanted)


def load_corpus(path: Path) -> Corpus:
    """Read and validate a corpus file.

    Raises:
        CorpusError: unreadable, empty, a missing or unknown field, a bad or repeated name.
    """
    try:
        document = tomllib.loads(read_text(path, LONGEST))
    except FileNotFoundError:
        raise CorpusError("the corpus file does not exist", path, hint="give a TOML file to --corpus") from None
    except (OSError, ValueError, RecursionError) as error:  # numbers of thousands of digits, nesting without end
        problem = f"the corpus is not readable TOML: {first_line(error)}"
        raise CorpusError(problem, path, hint=entries.SEE_THE_FORM) from None
    experts = document.pop("experts", False)
    if not isinstance(experts, bool):
        problem = "whether each expert's output is recorded is true or false"
        raise entries.refused(problem, path, "experts = true", f"experts = {entries.shown(experts)}")
    kinds = {kind.kind: kind for kind in entries.KINDS}
    tables = {name: value for name, value in document.items() if isinstance(value, list) and value}
    if not document.get("prompt") or set(tables) != set(document) or set(tables) - set(kinds):
        problem = "the corpus holds no prompts, or something that is no entry"
        expected = f"[[prompt]] tables, and others of {', '.join(kinds)}"
        raise entries.refused(problem, path, expected, entries.listed(document) or "nothing")
    read: dict[str, tuple[Any, ...]] = {
        name: tuple(
            entries.read_entry(kind, table, f"{path}, {name} {n}")
            for n, table in enumerate(tables.get(name, ()), 1)
        )
        for name, kind in kinds.items()
    }
    corpus = Corpus(
        read["prompt"], read["decode"], read["batch"], read["offset"], read["generation"], experts=experts
    )
    _check_names(corpus, path)
    return corpus


def _check_names(corpus: Corpus, path: Path) -> None:
    names: set[str] = set()
    for entry in corpus.entries:
        if entry.name in names:
            raise CorpusError("two entries have one name", where=path, found=entry.name, hint="rename one of them")
        names.add(entry.name)
    prompts = {prompt.name: None for prompt in corpus.prompts}
    for batch in corpus.batches:
        for name in batch.prompts:
            if name not in prompts:
                problem = "a batch names a prompt that the corpus does not have"
                hint = "the rows of a batch are prompts of the same corpus: add it, or name another"
                where, expected = f"{path}, {batch.name}", entries.listed(prompts)
                raise CorpusError(problem, where, expected, entries.shown(name), hint=hint)
