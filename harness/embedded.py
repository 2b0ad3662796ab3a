"""Where the embedded goldens lie: in a checkout under goldens/, in an installed package beside this file."""

from __future__ import annotations

from pathlib import Path

from harness.errors import GoldenError

DEFAULT = "qwen2-tiny.h5"


def directory() -> Path:
    """The folder of the embedded goldens, their checkpoints and the corpus.

    Raises:
        GoldenError: neither place has it.
    """
    package = Path(__file__).parent
    for place in (package.parent / "goldens", package / "_embedded"):
        if (place / "corpus.toml").is_file():
            return place
    raise GoldenError(
        "the embedded goldens are not installed",
        where=package.parent / "goldens",
        hint="run from a checkout, or name a golden: goldens check PATH --weights DIR",
    )


def in_checkout() -> bool:
    """Whether the embedded goldens are those of a checkout, which may be recorded anew."""
    return directory() == Path(__file__).parents[1] / "goldens"


def golden() -> Path:
    """The golden that commands use when none is named."""
    return directory() / DEFAULT


def corpus_of(checkpoint: str) -> Path:
    """What an embedded golden is recorded on: a corpus beside its checkpoint, by name, or else the fixed one."""
    own = directory() / f"{checkpoint}.toml"
    return own if own.is_file() else directory() / "corpus.toml"


def checkpoint_beside(golden_path: str, model_id: str) -> Path:
    """The directory of a golden's checkpoint where `--weights` does not say: beside the golden, by name."""
    return Path(golden_path).parent / model_id.rpartition("/")[2]
