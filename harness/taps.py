"""What a tap is, and what every kind of tap is called.

    embed                           what enters the first layer: with its scale, and positions where they are added
    layers.{i}.attn_norm
    layers.{i}.q  .k  .v            after the bias
    layers.{i}.q_norm  .k_norm
    layers.{i}.q_rope  .k_rope      as attention is given them: where nothing is turned, what they were before
    layers.{i}.cache_k  .cache_v    the KV cache with this call's keys and values in it, where there is one
    layers.{i}.q_latent  .q_latent_norm                 of latent attention (DeepSeek): what queries are made of
    layers.{i}.kv_latent  .kv_latent_norm  .k_pe        what keys and values are made of; what all keys share
    layers.{i}.k_pe_rope            the latter, turned
    layers.{i}.cache_latent  .cache_k_pe                the cache of these two
    layers.{i}.kv                   of every head, of this call's tokens: the rest of the key, then the value
    layers.{i}.probs                attention probabilities
    layers.{i}.context              probs @ v, before the output projection
    layers.{i}.attn_out
    layers.{i}.attn_post_norm       between attn_out and the sum
    layers.{i}.resid_mid
    layers.{i}.mlp_norm
    layers.{i}.gate  .up  .act      act = activation(gate) * up, or activation(up)
    layers.{i}.router_logits        of a mixture of experts, before softmax or sigmoid
    layers.{i}.router_scores        where a parameter corrects the choice: the corrected scores
    layers.{i}.routing              the weight of every expert, 0 where it is not chosen
    layers.{i}.expert_out           where a corpus asks: what each expert of a token makes of it, not weighed, in
                                    the order of the experts' numbers
    layers.{i}.experts_out          the weighted sum of the experts that are chosen
    layers.{i}.shared_gate  .shared_up  .shared_act  .shared_out      the expert that every token goes to
    layers.{i}.shared_weight        what its output is multiplied by the sigmoid of
    layers.{i}.mlp_out              of the MLP, or of all experts together
    layers.{i}.mlp_post_norm
    layers.{i}.resid_post
    final_norm
    logits                          with their scale and cap

Which of them a model has, and which feeds which, its family says (`harness.families`), and then the manifest of
its golden. Every tap has a leading batch axis, also where the batch is 1: a single prompt, a padded batch and a
decode step are then one kind of thing. `Tap.inputs` says which taps feed it, so that "upstream" is data and not a
guess. Nothing is matched fuzzily.

Where a model gets its tokens in several calls, a tap's values of all calls lie one after the other along
`position`, so a decode has the same arrays as a prompt. The cache taps have `slot` instead: what the cache holds
after the last call, which is also, up to the slots that are filled, what it holds after every earlier one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

TOKENS = ("batch", "position")
Q_HEADS = (*TOKENS, "head", "head_dim")
KV_HEADS = (*TOKENS, "kv_head", "head_dim")
CACHE = ("batch", "slot", "kv_head", "head_dim")
# What a cache holds: at the end, of all tokens.
CACHED = {"cache_k": "k_rope", "cache_v": "v", "cache_latent": "kv_latent_norm", "cache_k_pe": "k_pe_rope"}
CACHE_KINDS = frozenset(CACHED)
# How a token is shared out among experts: wide in many models, whatever their activations are.
ROUTING_KINDS = frozenset({"router_logits", "router_scores", "routing"})
# Where a port that runs on its own values goes on with the golden's choice: see `harness.run.tapping`.
PINNED = frozenset({"routing"})
# What a golden has where its corpus asks for it, and a port that says so.
OPTIONAL = frozenset({"expert_out"})

# What attention reads at every position.
ATTENDED = frozenset({"k_rope", "v", "k_pe_rope", "kv", "kv_latent_norm"})
# Of these one is made of the other at every position, and a port goes on with either.
LATENTS = frozenset({"kv", "kv_latent_norm"})
# That, and the choice of every token, are stored in full where the other taps are kept at chosen positions only.
FULL_KINDS = ATTENDED | PINNED

# The dimensions of every kind.
DIMS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("embed", "final_norm"), (*TOKENS, "hidden")),
    **dict.fromkeys(("attn_norm", "attn_out", "attn_post_norm", "resid_mid"), (*TOKENS, "hidden")),
    **dict.fromkeys(("mlp_norm", "mlp_out", "mlp_post_norm", "resid_post"), (*TOKENS, "hidden")),
    **dict.fromkeys(("q", "q_norm", "q_rope", "context"), Q_HEADS),
    **dict.fromkeys(("k", "v", "k_norm", "k_rope"), KV_HEADS),
    **dict.fromkeys(("cache_k", "cache_v"), CACHE),
    **dict.fromkeys(("q_latent", "q_latent_norm"), (*TOKENS, "q_rank")),
    **dict.fromkeys(("kv_latent", "kv_latent_norm"), (*TOKENS, "kv_rank")),
    **dict.fromkeys(("k_pe", "k_pe_rope"), (*TOKENS, "rope_dim")),
    "cache_latent": ("batch", "slot", "kv_rank"),
    "cache_k_pe": ("batch", "slot", "rope_dim"),
    "kv": (*TOKENS, "head", "kv_dim"),
    **dict.fromkeys(("gate", "up", "act"), (*TOKENS, "intermediate")),
    **dict.fromkeys(("router_logits", "router_scores", "routing"), (*TOKENS, "expert")),
    "expert_out": (*TOKENS, "chosen", "hidden"),
    **dict.fromkeys(("experts_out", "shared_out"), (*TOKENS, "hidden")),
    **dict.fromkeys(("shared_gate", "shared_up", "shared_act"), (*TOKENS, "shared")),
    "shared_weight": (*TOKENS, "single"),
    "probs": ("batch", "head", "position", "key"),
    "logits": (*TOKENS, "vocab"),
}
# And of those that latent attention has of another size.
LATENT_DIMS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("q", "q_rope"), (*TOKENS, "head", "qk_dim")),
    "context": (*TOKENS, "head", "value_dim"),
}


@dataclass(frozen=True)
class Tap:
    """One named intermediate.

    Attributes:
        name: its full name, `layers.3.q_rope`.
        dims: the names of its dimensions; `batch` first, then `position` (for `probs`: `batch`,
            `head`, `position`, `key`; for a cache `slot` in place of `position`).
        inputs: the names of the taps that it is computed from, in data-flow order.
    """

    name: str
    dims: tuple[str, ...]
    inputs: tuple[str, ...]

    @property
    def kind(self) -> str:
        """The name without its layer: `q_rope`."""
        return kind_of(self.name)

    @property
    def stage(self) -> str:
        """The part of the model that it belongs to: `layers.3`, or `` outside the layers."""
        return self.name.rpartition(".")[0]

    @property
    def position_axis(self) -> int:
        """The axis that counts tokens: `position`, or `slot` of a cache."""
        return self.dims.index("slot" if "slot" in self.dims else "position")

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Its shape where every dimension has the size given."""
        return tuple(sizes[dim] for dim in self.dims)


def kind_of(name: str) -> str:
    """The name of a tap without its layer: `q_rope` of `layers.3.q_rope`."""
    return name.rpartition(".")[2]


def name_of(stage: str, kind: str) -> str:
    """The whole name of a tap: `layers.3.q_rope`, or the kind alone outside the layers."""
    return f"{stage}.{kind}" if stage else kind


def recorded_inputs(taps: Sequence[Tap], recorded: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """For each recorded tap the nearest recorded taps that it is computed from.

    Where everything is recorded these are its `inputs`; at a shallower level an input that is not
    recorded is followed back to those that are. A tap that depends on token ids alone has none.
    """
    kept = set(recorded)
    nearest: dict[str, tuple[str, ...]] = {}
    for tap in taps:  # data-flow order: inputs come first
        upstream: dict[str, None] = {}
        for name in tap.inputs:
            upstream.update(dict.fromkeys((name,) if name in kept else nearest[name]))
        nearest[tap.name] = tuple(upstream)
    return {name: inputs for name, inputs in nearest.items() if name in kept}
