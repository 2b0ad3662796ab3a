"""What a port is given does not depend on the dialect of its checkpoint: every field in both places, and a head.

The hub's dialect has `rope_theta` and `torch_dtype` at the top; transformers 5 writes `rope_parameters`, `dtype`
and `layer_types`. A port reads whichever its author knew. A tied head is not in the file: it is the embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num

from harness.architecture import Config, architecture_of
from harness.checkpoint import Checkpoint
from harness.errors import CheckpointError
from harness.families.windows import FULL, SLIDING

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def in_both_dialects(config: Config) -> dict[str, Any]:
    """A config that has what either dialect has, each field where either of them puts it.

    Raises:
        CheckpointError: it contradicts itself, or lacks a field that nothing else says.
    """
    arch = architecture_of(config)  # refuses two thetas, windows that contradict each other, scaled RoPE
    dtypes = {str(config[name]) for name in ("dtype", "torch_dtype") if config.get(name) is not None}
    if len(dtypes) > 1:
        raise CheckpointError(
            "the config gives two dtypes",
            where="config.json: dtype and torch_dtype",
            expected="one of them, or both the same",
            found=" and ".join(sorted(dtypes)),
            hint="remove the wrong one",
        )
    rope = config.get("rope_parameters") or {}
    theta = next((rope.theta for rope in arch.ropes if rope), None)
    slides = [window is not None for window in arch.windows]
    first = slides.index(True) if any(slides) else len(slides)
    other: dict[str, Any] = {
        "head_dim": arch.head_dim,
        "rope_theta": theta,
        "use_sliding_window": any(slides),
        "layer_types": [SLIDING if sliding else FULL for sliding in slides],
        # The hub's dialect can say windows from one layer on, and no others.
        "max_window_layers": first if all(slides[first:]) else None,
        **{name: dtype for dtype in dtypes for name in ("dtype", "torch_dtype")},
    }
    # What is there stays as it is: a port that misreads it has to be seen misreading it.
    missing = {name: value for name, value in other.items() if config.get(name) is None}
    both = {"rope_scaling": None, "sliding_window": None, **config, **missing}
    return both | {"rope_parameters": {"rope_type": "default", "rope_theta": theta, **rope}}


class Parameters(Mapping[str, Num[np.ndarray, "..."]]):
    """A checkpoint's parameters by name, each read as it is asked for; where the head is tied, it is there too.

    Args:
        checkpoint_dir, config: as a port's `load` is given them.

    Raises:
        CheckpointError: the weights cannot be read, or a tied head is stored as well and is another one.
    """

    def __init__(self, checkpoint_dir: Path, config: Config) -> None:
        self._checkpoint = Checkpoint(checkpoint_dir)
        self._tied = architecture_of(config).tied_head
        names = self._checkpoint.names
        self._names = (*names, HEAD) if self._tied and HEAD not in names else names
        if self._tied and HEAD in names and not np.array_equal(self._checkpoint.read(HEAD), self[EMBEDDING]):
            raise CheckpointError(
                "the config ties the head to the embedding, and the checkpoint holds another head",
                where=f"{checkpoint_dir}: {HEAD}",
                expected=f"{EMBEDDING}, or no head at all",
                found="other values",
                hint="restore tie_word_embeddings from the published config.json, or remove the head",
            )

    def __getitem__(self, name: str) -> Num[np.ndarray, "..."]:
        """One parameter, as it is stored.

        Raises:
            KeyError: there is none of that name.
        """
        if name not in self._names:
            raise KeyError(name)
        return self._checkpoint.read(EMBEDDING if self._tied and name == HEAD else name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
