"""Texts to token ids, trusted only where three sources agree.

transformers' AutoTokenizer gives the ids. The `tokenizers` library on the bare tokenizer.json, which the checking
side uses, must give the same; and where the tokenizer is Qwen2's, so must the published facts in
goldens/qwen2_ids.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from harness import bare_tokenizer, embedded
from harness.along import ANOTHER_TOKENIZER, Case, check_vocabulary
from harness.bare_tokenizer import LONGEST, refusing, token_ids
from harness.corpus import Corpus
from harness.entries import Batch, Entry, refused
from harness.errors import CorpusError
from harness.foreign import open_regular
from harness.golden import TokenizerEntry

_BESIDE = "put tokenizer.json and tokenizer_config.json of the checkpoint beside its weights"
OF_A_TOKENIZER = (".json", ".txt", ".jinja", ".model")
# What tells Qwen2's tokenizer from any other: the ids of its first two special tokens.
QWEN2_SPECIAL = {"<|endoftext|>": 151643, "<|im_start|>": 151644}


@dataclass(frozen=True, eq=False)
class Tokenized:
    """Phase 2 facts.

    Attributes:
        ids: token ids by name, of every selected text and of the prompts that selected batches name.
        pad: the id that fills padding.
    """

    tokenizer: TokenizerEntry
    ids: Mapping[str, Sequence[int]]
    pad: int


def tokenize(checkpoint: Path, corpus: Corpus, selected: Sequence[Entry], vocab: int) -> Tokenized:
    """The token ids of the selected entries, with the checkpoint's own tokenizer.

    Raises:
        CorpusError: no tokenizer, its two readers or the published ids disagree, a text without any token, or an
            id outside the vocabulary.
    """
    bare, content = bare_tokenizer.load(checkpoint)
    with refusing("the checkpoint's tokenizer cannot be read by transformers", checkpoint, _BESIDE):
        _refuse_irregular(checkpoint)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        pad = 0 if pad is None else int(pad)
    is_qwen2 = all(bare.token_to_id(token) == known for token, known in QWEN2_SPECIAL.items())
    published = _published() if is_qwen2 else {}
    ids_by_name: dict[str, Sequence[int]] = {}
    for name, text in _texts(corpus, selected).items():
        where = f"prompt {name}"
        with refusing("this text cannot be tokenized", where, "mend the text, or the checkpoint's tokenizer"):
            ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        _same_from_the_file(name, ids, token_ids(bare, text, where))
        _same_as_published(name, ids, published.get(text))
        if not ids:
            raise CorpusError("a prompt has no tokens", where=name, hint="give it a text with content")
        wide = np.asarray([ids], np.int64)  # a damaged tokenizer.json has ids beyond int32
        check_vocabulary(Case(name, wide, wide, wide >= 0), min(vocab, 2**31))
        ids_by_name[name] = ids
    digest = hashlib.sha256(content).hexdigest()
    if not 0 <= pad < vocab:
        problem = "the token that fills padding is outside the vocabulary"
        file = checkpoint / "tokenizer_config.json"
        raise refused(problem, file, f"0 to {vocab - 1}", pad, ANOTHER_TOKENIZER)
    return Tokenized(TokenizerEntry(digest, "Qwen2" if is_qwen2 else ""), ids_by_name, pad)


def _refuse_irregular(checkpoint: Path) -> None:
    """Refuse whatever transformers might wait for, or fill the memory with, beside the weights.

    Raises:
        OSError: a file that is no regular one.
    """
    for path in checkpoint.iterdir():
        if not path.is_dir():
            with open_regular(path) as file:
                if path.suffix in OF_A_TOKENIZER and os.fstat(file.fileno()).st_size > LONGEST:
                    raise OSError(f"{path.name} is longer than {LONGEST:,} bytes")


def _texts(corpus: Corpus, selected: Sequence[Entry]) -> Mapping[str, str]:
    """Name -> text: of each selected entry, and of the prompts that make up a selected batch."""
    texts: dict[str, str] = {}
    for entry in selected:
        if isinstance(entry, Batch):
            texts |= {name: corpus.prompt(name).text for name in entry.prompts}
        else:
            texts[entry.name] = entry.text
    return texts


def _published() -> Mapping[str, Sequence[Sequence[int]]]:
    """Text -> the ids that Qwen2's tokenizer gives; two where it depends on Unicode normalization."""
    document = json.loads((embedded.directory() / "qwen2_ids.json").read_text(encoding="utf-8"))
    normalized = document["normalized"]
    return {
        text: (ids, normalized[text]) if text in normalized else (ids,) for text, ids in document["ids"].items()
    }


def _same_from_the_file(name: str, ids: Sequence[int], bare: Sequence[int]) -> None:
    if list(ids) != list(bare):
        problem = "transformers and tokenizer.json give different token ids"
        expected = f"{reprlib.repr(list(bare))} (tokenizers library, tokenizer.json)"
        found = f"{reprlib.repr(list(ids))} (transformers, AutoTokenizer)"
        hint = "transformers changes this tokenizer as it loads it (often its normalizer): save it again with "
        hint += "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        raise CorpusError(problem, f"prompt {name}", expected, found, hint=hint)


def _same_as_published(name: str, ids: Sequence[int], published: Sequence[Sequence[int]] | None) -> None:
    if published is not None and list(ids) not in [list(known) for known in published]:
        problem = "this is Qwen2's tokenizer, but it does not give Qwen2's token ids"
        expected = " or ".join(str(list(known)) for known in published)
        hint = "the tokenizer files are damaged or mixed: copy tokenizer.json from the published checkpoint"
        raise refused(problem, f"prompt {name}", expected, list(ids), hint)
