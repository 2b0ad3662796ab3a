"""What must be there for a mutant to show: in an input, in the checkpoint's values, in the architecture.

A need that nothing meets is the reason why a mutant survived. Where it is the architecture that does not meet
it, the mutant is no bug there: it computes the same function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

from harness.architecture import Architecture, Config, architecture_of, family_of
from harness.checkpoint import open_checkpoint
from harness.families.graph import kinds_in
from harness.families.parameters import made_with, rows_of
from harness.golden import CaseEntry
from harness.store import Golden

FEW = 1e-3  # the share of parameters that is no bug when it changes in its last digits
Of = Literal["case", "checkpoint", "architecture", "precision", "values"]


@dataclass(frozen=True)
class CaseFacts:
    """What an input is like, as far as it decides what can show on it.

    Attributes:
        tokens: in its longest row, up to the last whose taps are kept.
        furthest: the largest position.
        padded_left: whether a row begins with padding.
        counted: whether every position is its own index in the row.
        steps: calls after the first, through a cache.
        chunked: whether the second of them brings several tokens.
        over_window: how many tokens its longest row has more than the model's window (fewer, where negative); None
            where the model has none.
        rows: of its batch.
    """

    name: str
    tokens: int
    furthest: int
    padded_left: bool
    counted: bool
    steps: int = 0
    chunked: bool = False
    over_window: int | None = None
    rows: int = 1


@dataclass(frozen=True)
class ModelFacts:
    """What a checkpoint is like.

    Attributes:
        zero: the parameters of kinds of taps (`q.bias`) that are zero throughout.
        constant: those of one dimension that hold one value only.
        dtypes: of the stored parameters.
        fits_float16: nearly every parameter is a number of float16, as those of bfloat16 that are not tiny.
    """

    architecture: Architecture
    config: Config
    zero: frozenset[str]
    constant: frozenset[str]
    dtypes: frozenset[str]
    fits_float16: bool


@dataclass(frozen=True)
class Need:
    """One thing that must be there.

    Attributes:
        of: what it is asked of. `case`: some input. `checkpoint`: its values. `architecture` (the model, and how
            it is stored) and `precision`: where they do not meet it, it is the same function. `values`: what
            flows through the model; only a run can say whether it is met, and a mutant that is not caught says
            that it is not.
        holds: (CaseFacts, ModelFacts or the name of a precision) -> whether it is met; `values` are not asked.
        lacking: the reason for a survivor, where it is not met.
        remedy: what would meet it.
    """

    of: Of
    holds: Callable[[Any], bool]
    lacking: str
    remedy: str = ""


def case_facts(golden: Golden, entry: CaseEntry) -> CaseFacts:
    """Facts from the inputs of a case; positions count where taps are kept."""
    case = golden.case(entry.name)
    kept = list(entry.kept) or slice(None)
    mask, positions = case.mask[:, kept], case.positions[:, kept]
    index = np.arange(case.mask.shape[1])[kept]
    tokens = int(case.mask[:, : index[-1] + 1].sum(axis=1).max())
    windows = [window for window in architecture_of(golden.manifest.model.config).windows if window]
    return CaseFacts(
        name=entry.name,
        tokens=tokens,
        furthest=int(positions[mask].max()),
        padded_left=bool((~case.mask[:, 0]).any()),
        counted=bool((positions == index)[mask].all()),
        steps=len(entry.calls) - 1 if entry.cached else 0,
        chunked=entry.cached and entry.calls[1] > 1,
        over_window=tokens - min(windows) if windows else None,
        rows=len(mask),
    )


def model_facts(checkpoint: Path, config: Config) -> ModelFacts:
    """Facts from the parameters; of the matrices, the dtype and whether float16 holds them."""
    architecture, family = architecture_of(config), family_of(config)
    opened = open_checkpoint(checkpoint, config)
    vectors: dict[str, list[np.ndarray]] = {}
    dtypes, changed, parameters = set(), 0, 0
    for name in opened.names:
        tensor = opened.read(name)
        dtypes.add(tensor.dtype.name)
        changed += _changed_by_float16(tensor)
        parameters += tensor.size
        if tensor.ndim == 1:
            _, sharing, last = made_with(family, name)
            for kind in sharing:
                own = tensor[rows_of(family, architecture, kind, len(tensor))]
                vectors.setdefault(f"{kind}.{last}", []).append(own.astype(np.float64))
    return ModelFacts(
        architecture,
        config,
        zero=frozenset(kind for kind, arrays in vectors.items() if not any(v.any() for v in arrays)),
        constant=frozenset(kind for kind, arrays in vectors.items() if all(np.ptp(v) == 0 for v in arrays)),
        dtypes=frozenset(dtypes),
        fits_float16=changed <= FEW * parameters,
    )


def of_architecture(config: Config) -> ModelFacts:
    """What is known without the parameters; of these nothing that a mutant could lack."""
    return ModelFacts(architecture_of(config), config, frozenset(), frozenset(), frozenset(), fits_float16=False)


def _changed_by_float16(tensor: np.ndarray) -> int:
    with np.errstate(over="ignore"):
        return int(np.count_nonzero(tensor.astype(np.float16).astype(tensor.dtype) != tensor))


def at_least(tokens: int) -> Need:
    return Need(
        "case",
        lambda case: case.tokens >= tokens,
        f"no case has {tokens} tokens",
        f"a prompt of {tokens} tokens or more",
    )


def beyond(position: int) -> Need:
    return Need(
        "case",
        lambda case: case.furthest > position,
        f"no case has a position beyond {position:,}",
        f"a case with positions beyond {position:,}",
    )


def steps(count: int) -> Need:
    """Calls after the first, through a KV cache."""
    return Need(
        "case",
        lambda case: case.steps >= count,
        f"no case has {count} decode steps",
        f"a decode of {count} steps or more",
    )


def model_has(holds: Callable[[Architecture], object], lacking: str) -> Need:
    """Something about the architecture."""
    return Need("architecture", lambda model: bool(holds(model.architecture)), lacking)


def bias(*kinds: str) -> tuple[Need, ...]:
    """These projections have biases, and they are not zero."""
    there = model_has(lambda arch: arch.biases >= set(kinds), f"{' or '.join(kinds)} has no bias here")
    return there, *map(_not_zero, kinds)


def _not_zero(kind: str) -> Need:
    return Need(
        "checkpoint",
        lambda model: f"{kind}.bias" not in model.zero,
        f"the biases of {kind} are zero in this checkpoint",
        "test weights with random biases",
    )


def has(*kinds: str) -> Need:
    """The model has taps of these kinds."""
    return model_has(lambda arch: kinds_in(arch) >= set(kinds), f"this model has no {' or '.join(kinds)}")


def layers(count: int) -> Need:
    """The model has that many layers."""
    return model_has(lambda arch: arch.layers >= count, f"there are fewer than {count} layers")


def varied(kind: str) -> Need:
    """The weights of a norm differ from each other."""
    return Need(
        "checkpoint",
        lambda model: f"{kind}.weight" not in model.constant,
        f"the weights of {kind} are all the same in this checkpoint",
        "test weights with random norm weights",
    )


def values(lacking: str, remedy: str) -> Need:
    """Something about the activations, which only a run can tell."""
    return Need("values", lambda _: True, lacking, remedy)


def over_window(by: int) -> Need:
    """So many tokens more than the model's window."""
    return Need(
        "case",
        lambda case: case.over_window is not None and case.over_window >= by,
        "no case is longer than the window" if by else "no case is as long as the window",
        "a prompt that is longer than the window" if by else "a prompt that is as long as the window",
    )


PAIR = at_least(2)
OVER_WINDOW, FILLS_WINDOW = over_window(1), over_window(0)
CHUNKED = Need(
    "case", lambda case: case.chunked, "no case has a prefill in chunks", "a decode whose prefill comes in chunks"
)
LEFT_PADDING = Need(
    "case", lambda case: case.padded_left, "no case is padded on the left", "a batch that is padded on the left"
)
UNCOUNTED = Need(
    "case",
    lambda case: not case.counted,
    "in every case a token's position is its index",
    "a batch that is padded on the left, or a case that starts at an offset",
)
WINDOWED = model_has(lambda arch: any(arch.windows), "no layer has a sliding window here")
MIXED = model_has(lambda arch: None in arch.windows, "every layer has the sliding window here")
GROUPED = model_has(
    lambda arch: 1 < arch.kv_heads < arch.heads,
    "every order of the KV heads is the same here: there is one, or one for each query head",
)
SEVERAL_HEADS = model_has(lambda arch: arch.heads > 1, "there is one head")
SEVERAL_KV_HEADS = model_has(lambda arch: arch.kv_heads > 1, "there is one KV head")
SQUARE_ATTENTION = model_has(
    lambda arch: arch.heads * arch.head_dim == arch.hidden,
    "the matrix is not square here: transposed, it has another shape, and loading refuses it",
)
UNEVEN_THETA = model_has(
    lambda arch: any(rope and ml_dtypes.bfloat16(rope.theta) != rope.theta for rope in arch.ropes),
    "theta is a bfloat16 number here",
)
UNTIED = model_has(lambda arch: not arch.tied_head, "the head is the embedding here")
STORED_WIDE = Need(
    "architecture",
    lambda model: model.dtypes != {"bfloat16"},
    "the checkpoint is stored in bfloat16: narrowing its parameters to bfloat16 changes nothing",
)
BEYOND_FLOAT16 = Need(
    "architecture",
    lambda model: not model.fits_float16,
    "nearly every parameter of the checkpoint is a number of float16: the way through it changes none of them",
)
ROUNDED = Need("precision", lambda precision: precision == "bfloat16", "the activations are as wide as the sums")
WIDE = Need("precision", lambda precision: precision != "bfloat16", "the activations are bfloat16 anyway")
FINE = Need("precision", lambda precision: precision == "float64", "1e-9 is below the rounding of probabilities")
