"""What decides the function that a decoder computes, apart from its parameters, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Windows = tuple[int | None, ...]
Placement = Literal["pre", "post", "sandwich", "parallel", "parallel_two"]


@dataclass(frozen=True)
class Norm:
    """A norm over the last axis.

    Attributes:
        eps: added to the mean of squares.
        bias: one is added last.
        centered: the mean is subtracted first (LayerNorm), or is not (RMSNorm).
        plus_one: the weight is stored as its difference from 1.
        weighted_wide: the weight multiplies before the result is cast to the dtype of the activations.
    """

    eps: float
    bias: bool = False
    centered: bool = False
    plus_one: bool = False
    weighted_wide: bool = False


@dataclass(frozen=True)
class Rope:
    """The rotation of a layer's queries and keys.

    Attributes:
        dims: how many dimensions of a head are turned: the first ones.
        interleaved: pairs are (2i, 2i + 1) and not (i, i + dims / 2).
        wide: what is in float32 at least. `products`: tables are rounded to the dtype of the activations, and what
            is turned by them once more. `all`: only what is turned is rounded.
        growth: beta and length: queries are multiplied by 1 + beta log(1 + floor(position / length)) once they are
            turned.
        kind: `default`, `linear`, `llama3`, `yarn`: see `harness.families.rope`.
        parameters: of that kind, by name, sorted.
        factors: of `longrope`, what each frequency is divided by: in calls up to the original length, and beyond.
    """

    theta: float
    dims: int
    interleaved: bool = False
    wide: Literal["none", "products", "all"] = "none"
    growth: tuple[float, float] | None = None
    kind: str = "default"
    parameters: tuple[tuple[str, float], ...] = ()
    factors: tuple[tuple[float, ...], tuple[float, ...]] | None = None


@dataclass(frozen=True)
class Architecture:
    """What a decoder computes.

    Attributes:
        family: its `model_type`.
        placement: where the norms are. `pre`: before attention and before the MLP. `post`: after each, before the
            sum. `sandwich`: both. `parallel`: attention and MLP read one norm of the residual stream and are added
            together; `parallel_two`: they read one each.
        qk_norm: of queries and keys, None where there is none.
        qk_norm_over: `head`: over each head, with one weight for all of them. `each`: with a weight for each.
            `all`: over all heads together.
        ropes: by layer; None where positions are not turned.
        windows: by layer, how many keys a query sees at most, its own included; None where it sees all before it.
        scale: what scores are multiplied by.
        score_cap, logit_cap: cap tanh(x / cap), where there is one.
        gated: act = activation(gate) * up; without, act = activation(up).
        biases: the kinds of taps whose projection has a bias.
        learned_positions: how many rows the table of positions has; 0 where there is none.
        embed_scale, residual_scale, logit_scale: factors on the embedding, on what is added to the residual
            stream, and on the logits.
    """

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    norm: Norm
    ropes: tuple[Rope | None, ...]
    windows: Windows
    scale: float
    activation: str
    tied_head: bool
    biases: frozenset[str] = frozenset()
    placement: Placement = "pre"
    qk_norm: Norm | None = None
    qk_norm_over: Literal["head", "each", "all"] = "head"
    score_cap: float | None = None
    gated: bool = True
    learned_positions: int = 0
    embed_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    logit_cap: float | None = None

    def sizes(self, batch: int, length: int) -> dict[str, int]:
        """The size of every named dimension for an input of shape [batch, length]."""
        return {
            "batch": batch,
            "position": length,
            "slot": length,
            "key": length,
            "hidden": self.hidden,
            "head": self.heads,
            "kv_head": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate": self.intermediate,
            "vocab": self.vocab,
        }
