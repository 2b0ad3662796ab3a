"""What is asked of a model beside the taps that every golden of it has."""

from __future__ import annotations

from pathlib import Path

from harness.corpus import Corpus
from harness.errors import CorpusError
from harness.record.model import Reference
from harness.selecting import Selected
from harness.taps import OPTIONAL


def asked_of(checkpoint: Path, device: str, corpus: Corpus, selected: Selected) -> Reference:
    """The model, with a tap for what each expert makes of a token where the corpus, or a glob, names it.

    Raises:
        CheckpointError: as `Reference`.
        CorpusError: the corpus asks for each expert's output, and there are no experts.
    """
    named = any(kind in pattern for kind in OPTIONAL for pattern in selected.taps)
    model = Reference(checkpoint, device, apart=corpus.experts or named)
    if corpus.experts and model.arch.experts is None:
        raise CorpusError(
            "the corpus asks for what each expert makes of a token, and this model has none",
            where=checkpoint,
            expected="a mixture of experts",
            found=model.arch.family,
            hint="leave `experts = true` out of the corpus",
        )
    return model
