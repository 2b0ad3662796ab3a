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

from harness.architecture import Architecture, Config, architecture_of, family_of
from harness.checkpoint import open_checkpoint
from harness.errors import CheckpointError
from harness.families.neutral import Named, Read
from harness.families.rope import PARTIAL
from harness.families.windows import FULL, SLIDING


def in_both_dialects(config: Config) -> dict[str, Any]:
    """A config that has what either dialect has, each field where either of them puts it.

    Raises:
        CheckpointError: it contradicts itself, or lacks a field that nothing else says.
    """
    arch = architecture_of(config)  # refuses two thetas, windows that contradict each other, two kinds of RoPE
    family, looked_at = family_of(config), Read(config)
    family.read(Named(looked_at, family.names))
    dtypes = {str(config[name]) for name in ("dtype", "torch_dtype") if config.get(name) is not None}
    if len(dtypes) > 1:
        problem, where = "the config gives two dtypes", "config.json: dtype and torch_dtype"
        expected = "one of them, or both the same"
        raise CheckpointError(problem, where, expected, " and ".join(sorted(dtypes)), hint="remove the wrong one")
    slides = [window is not None for window in arch.windows]
    first = slides.index(True) if any(slides) else len(slides)
    ropes = _ropes(config, arch, family.ropes_by_type)
    fields: dict[str, Any] = {
        "head_dim": arch.turned_dim,
        "qk_head_dim": arch.head_dim,
        # What transformers 5 writes out, and the hub's files leave to the defaults of each family.
        "tie_word_embeddings": arch.tied_head,
        "num_key_value_heads": arch.kv_heads,
        "attention_bias": bool({"q", "kv_latent"} & arch.biases),
        "mlp_bias": "mlp_out" in arch.biases,
        "use_sliding_window": any(slides),
        "layer_types": [SLIDING if sliding else FULL for sliding in slides],
        # The hub's dialect can say windows from one layer on, and no others.
        "max_window_layers": first if all(slides[first:]) else None,
        **{name: dtype for dtype in dtypes for name in ("dtype", "torch_dtype")},
        **ropes,
    }
    for name, own in family.names.items():
        value = next((source[key] for source in (config, fields) for key in (own, name) if key in source), None)
        fields |= {name: value, own: value}
    # What is there stays as it is: a port that misreads it has to be seen misreading it.
    known = looked_at.fields | {"dtype", "torch_dtype"}
    missing = {name: value for name, value in fields.items() if config.get(name) is None and name in known}
    absent: dict[str, Any] = {name: ropes[name] for name in ("rope_scaling",) if name in ropes}
    if "use_sliding_window" in known:
        absent["sliding_window"] = None
    both = {**absent, **config, **missing}
    return both | {name: value for name, value in ropes.items() if name == "rope_parameters"}


def _ropes(config: Config, arch: Architecture, by_type: bool) -> dict[str, Any]:
    """What both dialects say of RoPE."""
    by_window = {window is not None: rope for window, rope in zip(arch.windows, arch.ropes, strict=True) if rope}
    if not by_window:
        return {}
    usual = by_window.get(False) or by_window[True]
    tables, scaling = config.get("rope_parameters") or {}, config.get("rope_scaling") or {}
    given: dict[str, Any] = dict(scaling or (tables.get(FULL, {}) if by_type else tables))
    table = {"rope_type": usual.kind, "rope_theta": usual.theta, **given}
    fields: dict[str, Any] = {
        "rope_theta": usual.theta,
        # The hub's has theta beside the scaling, the new dialect in it.
        "rope_scaling": {k: v for k, v in given.items() if k != "rope_theta"} if usual.kind != "default" else None,
        PARTIAL: usual.dims / arch.turned_dim,
    }
    if usual.dims < arch.turned_dim:
        table[PARTIAL] = fields[PARTIAL]
    if not by_type:
        return fields | {"rope_parameters": table}
    fields["rope_parameters"] = {FULL: table} if False in by_window else {}
    if local := by_window.get(True):
        of_windows = {"rope_type": local.kind, "rope_theta": local.theta, **dict(local.parameters)}
        fields["rope_parameters"][SLIDING] = of_windows | tables.get(SLIDING, {})
        fields["rope_local_base_freq"] = local.theta
    return fields


class Parameters(Mapping[str, Num[np.ndarray, "..."]]):
    """A checkpoint's parameters by their names in its files, read as they are asked for, and a tied head as well.

    Quantised ones are widened to bfloat16, under the names that they have where they are not quantised.

    Args:
        checkpoint_dir, config: as a port's `load` is given them.

    Raises:
        CheckpointError: the weights cannot be read, or a tied head is stored as well and is another one.
    """

    def __init__(self, checkpoint_dir: Path, config: Config) -> None:
        self._checkpoint, paths = open_checkpoint(checkpoint_dir, config), family_of(config).model
        head, embedding = f"{paths['logits']}.weight", f"{paths['embed']}.weight"
        stored = self._checkpoint.published
        self._read = {name: own for own, name in stored.items()}
        if not architecture_of(config).tied_head:
            return
        own = self._read.setdefault(stored.get(head, head), embedding)
        if own == head and not np.array_equal(self._checkpoint.read(head), self._checkpoint.read(embedding)):
            where, expected = f"{checkpoint_dir}: {stored[head]}", f"{stored[embedding]}, or no head at all"
            problem = "the config ties the head to the embedding, and the checkpoint holds another head"
            hint = "restore tie_word_embeddings from the published config.json, or remove the head"
            raise CheckpointError(problem, where, expected, "other values", hint=hint)

    def __getitem__(self, name: str) -> Num[np.ndarray, "..."]:
        """One parameter, as it is stored, or as it is widened.

        Raises:
            KeyError: there is none of that name.
        """
        return self._checkpoint.read(self._read[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)
