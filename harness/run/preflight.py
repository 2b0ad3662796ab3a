"""What must be equal before a forward pass means anything: config, weights, token ids, vocabulary.

These are phases 1 and 2 of the port that this project began with. Each refuses with its own message.
"""

from __future__ import annotations

import hashlib
import itertools
import reprlib
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from harness import bare_tokenizer
from harness.along import check_vocabulary
from harness.architecture import Config, architecture_of, difference, read_config
from harness.bare_tokenizer import token_ids
from harness.checkpoint import open_checkpoint, verify_parameters
from harness.errors import CheckpointError, CorpusError
from harness.golden import CaseEntry
from harness.store import Golden


def preflight(golden: Golden, checkpoint: Path, cases: Sequence[CaseEntry]) -> Config:
    """Everything that can be refused before the port runs.

    Returns:
        The checkpoint's config, which is handed to the port.

    Raises:
        CheckpointError: another architecture, or not byte for byte the golden's weights.
        CorpusError: the checkpoint's own tokenizer gives other ids, or an id is outside the vocabulary.
    """
    if not checkpoint.is_dir():
        problem, expected = "there is no checkpoint directory", f"the checkpoint of {golden.manifest.model.id}"
        raise CheckpointError(problem, checkpoint, expected, "nothing", hint="say where it is: --weights DIR")
    config = read_config(checkpoint)
    same_config(golden.manifest.model.config, config, checkpoint)
    verify_parameters(open_checkpoint(checkpoint, golden.manifest.model.config), golden.manifest.model.parameters)
    same_token_ids(golden, checkpoint, cases)
    for entry in cases:
        check_vocabulary(golden.case(entry.name), architecture_of(config).vocab)
    return config


def same_config(golden: Config, candidate: Config, checkpoint: Path) -> None:
    """Refuse a config that describes another function than the golden's, whatever dialect it uses."""
    for field, expected, found in difference(golden, candidate):
        problem = "the config describes another architecture than the golden's"
        where = f"{checkpoint / 'config.json'}: {field}"
        hint = "use the config.json that the golden was recorded with; `goldens show` prints it"
        raise CheckpointError(problem, where, _short(expected), _short(found), hint=hint)


def _short(value: object) -> object:
    """The windows of a thousand layers would be a message of thousands of words."""
    return reprlib.repr(value) if isinstance(value, tuple) and len(value) > 40 else value


def same_token_ids(golden: Golden, checkpoint: Path, cases: Sequence[CaseEntry]) -> None:
    """Tokenize every prompt again with the checkpoint's own tokenizer, and refuse any other ids.

    A tokenizer file that differs from the recorded one is fine as long as it gives the same ids.
    """
    tokenizer, content = bare_tokenizer.load(checkpoint)
    same_file = hashlib.sha256(content).hexdigest() == golden.manifest.tokenizer.sha256
    for entry in cases:
        case = golden.case(entry.name)
        for row, text in enumerate(entry.texts):
            _same_row(tokenizer, entry, text, case.input_ids[row][case.mask[row]].tolist(), same_file)


def _same_row(tokenizer: Tokenizer, entry: CaseEntry, text: str, recorded: list[int], same_file: bool) -> None:
    """One row's real tokens; what the reference generated after the text is not the tokenizer's."""
    ids = token_ids(tokenizer, text, f"case {entry.name}")
    if entry.generated:
        recorded = recorded[: len(recorded) - (entry.generated - 1)]
    if ids == recorded:
        return
    at = next(i for i, (a, b) in enumerate(itertools.zip_longest(recorded, ids)) if a != b)
    problem = "the checkpoint's tokenizer gives other token ids than the golden holds"
    where = f"case {entry.name}, token {at} ({'same' if same_file else 'another'} tokenizer.json)"
    hint = "use the tokenizer.json that the golden was recorded with"
    raise CorpusError(problem, where, _around(recorded, at), _around(ids, at), hint=hint)


def _around(ids: Sequence[int], at: int) -> str:
    shown = ", ".join(str(i) for i in ids[max(0, at - 2) : at + 6])
    return f"[{'..., ' if at > 2 else ''}{shown}{', ...' if at + 6 < len(ids) else ''}] ({len(ids)} ids)"
