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
        deinterleaved: what is turned in pairs (2i, 2i + 1) comes out as (i, i + dims / 2).
        last: the last dimensions of a head are turned, and not the first.
        growth: beta and length: queries are multiplied by 1 + beta log(1 + floor(position / length)) once they are
            turned.
        kind: `default`, `linear`, `llama3`, `yarn`: see `harness.families.rope`.
        parameters: of that kind, by name, sorted.
        factors: of `longrope`, what each frequency is divided by: in calls up to the original length, and beyond.
    """

    theta: float
    dims: int
    interleaved: bool = False
    deinterleaved: bool = False
    last: bool = False
    wide: Literal["none", "products", "all"] = "none"
    growth: tuple[float, float] | None = None
    kind: str = "default"
    parameters: tuple[tuple[str, float], ...] = ()
    factors: tuple[tuple[float, ...], tuple[float, ...]] | None = None


@dataclass(frozen=True)
class Latent:
    """Latent attention (DeepSeek-V2, 2024): keys and values of all heads are made of one vector, which is cached.

    A head's query and key have a part that is made of latents, and behind it one that is turned; of the keys'
    turned part there is one for all heads.

    Attributes:
        q_rank: the size of the vector that queries are made of; None where they are made of the hidden state.
        kv_rank: of the vector that keys and values are made of.
        nope, rope: the sizes of the two parts.
        value: of a head's value.
        norm: of both vectors.
    """

    q_rank: int | None
    kv_rank: int
    nope: int
    rope: int
    value: int
    norm: Norm


@dataclass(frozen=True)
class Experts:
    """A mixture of experts, which some layers have in place of the MLP.

    Attributes:
        layers: by layer, whether it has experts.
        count: how many there are.
        chosen: to how many of them a token goes.
        intermediate: of each of them.
        score: what weights are made of. `softmax` and `sigmoid`: of the logits of all experts.
            `softmax_of_chosen`: of those that are chosen.
        corrected: a parameter is added to the scores for the choice, and not for the weights.
        groups, chosen_groups: experts are chosen within the groups that are chosen first.
        group_by: a group is chosen by its best score, or by the sum of its best two.
        renormed: the weights of a token are divided by their sum, and that much is added to it.
        factor: what weights are multiplied by last.
        logits_wide, weights_wide: what is in float32 at least: the product that makes the logits, and the weights.
        bias: of the router and of every expert.
        clamp: alpha and the limit: act = (up + 1) * gate * sigmoid(alpha * gate), of a gate that is at most the
            limit, and an up that is between both limits.
        shared: the intermediate size of the expert that every token goes to; 0 where there is none.
        shared_gated: its output is multiplied by the sigmoid of a number of the token's own.
        apart: what each of the chosen ones makes of a token is a tap of its own. The function is the same.
    """

    layers: tuple[bool, ...]
    count: int
    chosen: int
    intermediate: int
    score: Literal["softmax", "sigmoid", "softmax_of_chosen"] = "softmax"
    corrected: bool = False
    groups: int = 1
    chosen_groups: int = 1
    group_by: Literal["best", "best_two"] = "best"
    renormed: float | None = None
    factor: float = 1.0
    logits_wide: bool = False
    weights_wide: bool = False
    bias: bool = False
    clamp: tuple[float, float] | None = None
    shared: int = 0
    shared_gated: bool = False
    apart: bool = False


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
        sinks: every head has a score of its own beside those of the keys, which takes its part of the probability.
        experts: where some layers have them.
        mla: of latent attention; `head_dim` is then that of queries and keys.
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
    sinks: bool = False
    experts: Experts | None = None
    mla: Latent | None = None

    @property
    def value_dim(self) -> int:
        """The size of a head's value."""
        return self.head_dim if self.mla is None else self.mla.value

    @property
    def turned_dim(self) -> int:
        """The size of what RoPE is given of a head."""
        return self.head_dim if self.mla is None else self.mla.rope

    def is_sparse(self, layer: int) -> bool:
        """Whether a layer has experts in place of the MLP."""
        return self.experts is not None and self.experts.layers[layer]

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
            "expert": self.experts.count if self.experts else 0,
            "chosen": self.experts.chosen if self.experts else 0,
            "shared": self.experts.shared if self.experts else 0,
            "single": 1,
            **self._latent_sizes(),
        }

    def _latent_sizes(self) -> dict[str, int]:
        mla = self.mla
        if mla is None:
            return {}
        sizes = {"kv_rank": mla.kv_rank, "qk_dim": self.head_dim, "rope_dim": mla.rope, "value_dim": mla.value}
        return {**sizes, "kv_dim": mla.nope + mla.value, **({"q_rank": mla.q_rank} if mla.q_rank else {})}
