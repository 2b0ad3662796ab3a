"""A checkpoint's tokenizer.json, read by the tokenizers library alone, as both sides do it.

What the file says of padding and truncation is switched off: they belong to whoever makes batches, transformers
switches them off too, and a file could ask for padding to a billion tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenizers import Tokenizer

from harness.errors import CorpusError, first_line
from harness.foreign import MIB, read_regular

NAME = "tokenizer.json"
LONGEST = 512 * MIB


def load(checkpoint: Path) -> tuple[Tokenizer, bytes]:
    """The tokenizer of a checkpoint directory, and the content of its file.

    Raises:
        CorpusError: there is none, or it cannot be read.
    """
    path = checkpoint / NAME
    hint = "put the tokenizer.json that belongs to the checkpoint beside its weights"
    with refusing("the checkpoint's tokenizer cannot be read", path, hint):
        content = read_regular(path, LONGEST)
        tokenizer = Tokenizer.from_buffer(content)
        tokenizer.no_padding()
        tokenizer.no_truncation()
    return tokenizer, content


def token_ids(tokenizer: Tokenizer, text: str, where: str) -> list[int]:
    """The ids of a text, no special tokens added.

    Raises:
        CorpusError: it cannot be tokenized; a lone surrogate is no text.
    """
    with refusing("this text cannot be tokenized", where, "mend the text, or take the checkpoint's own tokenizer"):
        return list(tokenizer.encode(text, add_special_tokens=False).ids)


@contextmanager
def refusing(problem: str, where: object, hint: str) -> Iterator[None]:
    """Turn whatever a tokenizer raises into a CorpusError: the library raises bare Exception, transformers nearly
    anything, and code in Rust panics with an exception that is no Exception.

    Raises:
        CorpusError: anything went wrong.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CorpusError(f"{problem}: {first_line(error)}", where=where, hint=hint) from None
