"""Where the embedded goldens lie: in a checkout under goldens/, in an installed package beside this file."""

from __future__ import annotations

import re
from pathlib import Path

from harness.errors import GoldenError

DEFAULT = "qwen2-tiny.h5"
NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


def directory() -> Path:
    """The folder of the embedded goldens, their checkpoints and the corpus.

    Raises:
        GoldenError: neither place has it.
    """
    package = Path(__file__).parent
    for place in (package.parent / "goldens", package / "_embedded"):
        if (place / "corpus.toml").is_file():
            return place
    hint = "run from a checkout, or name a golden: goldens check PATH --weights DIR"
    raise GoldenError("the embedded goldens are not installed", package.parent / "goldens", hint=hint)


def in_checkout() -> bool:
    """Whether the embedded goldens are those of a checkout, which may be recorded anew."""
    return directory() == Path(__file__).parents[1] / "goldens"


def golden() -> Path:
    """The golden that commands use when none is named."""
    return directory() / DEFAULT


def goldens() -> tuple[Path, ...]:
    """All of them: the one that commands use when none is named, and the others by name."""
    others = sorted(path for path in directory().glob("*.h5") if path.name != DEFAULT)
    return (golden(), *others)


def resolved(given: str | None) -> str:
    """The golden that a command is given: a path, a URL, or the name of an embedded one; None is the default."""
    if given is None:
        return str(golden())
    if NAME.fullmatch(given) and not Path(given).exists() and (directory() / f"{given}.h5").is_file():
        return str(directory() / f"{given}.h5")
    return given


def corpus_of(checkpoint: str) -> Path:
    """What an embedded golden is recorded on: its own corpus, the fixed one, or that of models of all families."""
    own = directory() / f"{checkpoint}.toml"
    if own.is_file():
        return own
    return directory() / ("corpus.toml" if f"{checkpoint}.h5" == DEFAULT else "families.toml")


def checkpoint_beside(golden_path: str, model_id: str) -> Path:
    """The directory of a golden's checkpoint where `--weights` does not say: beside the golden, by name."""
    return Path(golden_path).parent / model_id.rpartition("/")[2]
