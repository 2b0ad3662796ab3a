"""What the configs of all families have in common: sizes, norms, one rotation of all layers, biases, experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from harness.families.options import Architecture, Experts, Norm, Rope
from harness.families.rope import rope
from harness.families.windows import layers_of
from harness.fields import Config, boolean, integer, number, text, wrong

EPS = (1e-30, 0.1)
Sizes = tuple[int, int, int, int]
Values = Float[np.ndarray, " n"]

# The projections that a config's one field gives biases to.
QKV = frozenset({"q", "k", "v"})
ATTENTION, MLP = QKV | {"attn_out"}, frozenset({"gate", "up", "mlp_out"})


def rms_norm(config: Config, **options: bool) -> Norm:
    """An RMSNorm with the eps of the config."""
    return Norm(number(config, "rms_norm_eps", *EPS), **options)


def layer_norm(config: Config, field: str = "layer_norm_eps", *, bias: bool = True) -> Norm:
    """A LayerNorm with the eps of the config: less the mean, and weighted before the cast."""
    return Norm(number(config, field, *EPS), bias=bias, centered=True, weighted_wide=True)


def ropes_of(config: Config, **options: Any) -> tuple[Rope, ...]:
    """The same rotation in every layer, with these options of `rope`."""
    return (rope(config, heads_of(config)[-1], **options),) * layers_of(config)


def biased(
    config: Config, kinds: frozenset[str] = ATTENTION, field: str = "attention_bias", absent: bool = False
) -> frozenset[str]:
    """These kinds of taps, where the field says that their projections have a bias."""
    return kinds if flag(config, field, absent) else frozenset()


def decoder(config: Config, **options: Any) -> Architecture:
    """The architecture with the sizes of the config, and these options; `sizes` where it is not `heads_of`'s.

    Where an option is not given it is what most families have: an RMSNorm, one rotation of all layers, no windows.

    Raises:
        CheckpointError: a field is missing, of another type, or absurd; the heads cannot be shared out.
    """
    hidden, heads, kv_heads, head_dim = options.pop("sizes", None) or heads_of(config)
    usual: dict[str, Callable[[], Any]] = {
        "norm": lambda: rms_norm(config),
        "ropes": lambda: ropes_of(config),
        "scale": lambda: head_dim**-0.5,
        "windows": lambda: (None,) * layers_of(config),
        "activation": lambda: activation_of(config, "hidden_act"),
        "tied_head": lambda: boolean(config, "tie_word_embeddings"),
    }
    return Architecture(
        family=config["model_type"],
        layers=layers_of(config),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=integer(config, "intermediate_size"),
        vocab=integer(config, "vocab_size"),
        **{name: read() for name, read in usual.items() if name not in options},
        **options,
    )


def flag(config: Config, field: str, absent: bool) -> bool:
    """The value of a field that is true or false, and what it is where there is none."""
    return absent if config.get(field) is None else boolean(config, field)


# What configs of such a mixture say of it, and transformers does not look at.
SIGMOID_ONLY = {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1, "ep_size": 1}


def mixture(
    config: Config,
    layers: tuple[bool, ...] | None = None,
    count: str = "num_local_experts",
    intermediate: str = "intermediate_size",
    **options: Any,
) -> Experts | None:
    """The experts that a config describes, with these options; None where no layer has any.

    Args:
        layers: by layer, whether it has some; None where all have.
        count, intermediate: the fields that say how many there are, and how large.
    """
    number_of_them, sparse = integer(config, count), layers or (True,) * layers_of(config)
    experts = Experts(
        layers=sparse,
        count=number_of_them,
        chosen=integer(config, "num_experts_per_tok", most=number_of_them),
        intermediate=integer(config, intermediate),
        **options,
    )
    return experts if any(sparse) else None


def sigmoid_mixture(config: Config) -> Experts | None:
    """DeepSeek-V3's: in groups, with a correction of the choice."""
    experts = deepseek_mixture(
        config,
        score="sigmoid",
        corrected=True,
        group_by="best_two",
        renormed=1e-20 if boolean(config, "norm_topk_prob") else None,
    )
    return in_groups(config, experts)


def deepseek_mixture(config: Config, **options: Any) -> Experts | None:
    """What DeepSeek's have in common: from some layer on, routed wide, and scaled, with a shared expert."""
    layers, dense = layers_of(config), integer(config, "first_k_dense_replace", least=0)
    inner = integer(config, "moe_intermediate_size")
    return mixture(
        config,
        tuple(index >= dense for index in range(layers)),
        count="n_routed_experts",
        intermediate="moe_intermediate_size",
        factor=factor(config, "routed_scaling_factor"),
        logits_wide=True,
        weights_wide=True,
        shared=inner * integer(config, "n_shared_experts"),
        **options,
    )


def in_groups(config: Config, experts: Experts | None) -> Experts | None:
    """The same experts, if there are any, chosen within the groups that are chosen first.

    Raises:
        CheckpointError: they cannot be shared out among the groups, or more are chosen than these have.
    """
    groups = integer(config, "n_group")
    chosen = integer(config, "topk_group", most=groups)
    if experts is None:
        return None
    each = experts.count // groups
    if experts.count % groups or (groups > 1 and experts.group_by == "best_two" and each < 2):
        expected = f"a divisor of {experts.count}"
        raise wrong("the experts cannot be shared out among the groups", "n_group", expected, groups)
    if experts.chosen > chosen * each:
        problem = "more experts are chosen than the groups have that are chosen first"
        raise wrong(problem, "num_experts_per_tok", f"at most {chosen * each}", experts.chosen)
    return replace(experts, groups=groups, chosen_groups=chosen)


def sparse_layers(config: Config) -> tuple[bool, ...]:
    """By layer, whether it has experts: every n-th from the n-th on, but for those that the config names."""
    # Qwen2MoeConfig's and Qwen3MoeConfig's defaults are every layer, and none that is named.
    step = 1 if config.get("decoder_sparse_step") is None else integer(config, "decoder_sparse_step")
    layers, dense = layers_of(config), config.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(type(layer) is int and 0 <= layer < layers for layer in dense):
        raise wrong("this is no list of layers", "mlp_only_layers", f"numbers below {layers}", dense)
    return tuple(index not in dense and (index + 1) % step == 0 for index in range(layers))


def factor(config: Config, field: str) -> float:
    """The value of a field that something is multiplied by."""
    return number(config, field, 1e-6, 1e6)


def cap(config: Config, field: str) -> float | None:
    """The value of a field that values are capped at; null is none, and absent is refused."""
    return None if field in config and config[field] is None else factor(config, field)


def silu(x: Values) -> Values:
    """x sigmoid(x) (Elfwing et al. 2017)."""
    values: Values = x / (1 + np.exp(-x))
    return values


def gelu(x: Values) -> Values:
    """x Phi(x) (Hendrycks & Gimpel 2016)."""
    from scipy.special import erf

    values: Values = 0.5 * x * (1 + erf(x / np.sqrt(2)))
    return values


def gelu_tanh(x: Values) -> Values:
    """Their approximation of it."""
    values: Values = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return values


ACTIVATIONS: Mapping[str, Callable[[Values], Values]] = {
    "silu": silu,
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
}


def activation_of(config: Config, field: str) -> str:
    """The name of an activation.

    Raises:
        CheckpointError: one that is not known here.
    """
    name = text(config, field)
    if name not in ACTIVATIONS:
        hint = "check a checkpoint with one of these"
        raise wrong("this activation is not known here", field, ", ".join(ACTIVATIONS), name, hint)
    return name


def heads_of(config: Config) -> Sizes:
    """Hidden size, heads, KV heads and the size of a head, which divide one another as they must."""
    hidden, heads = integer(config, "hidden_size"), integer(config, "num_attention_heads")
    kv_heads = integer(config, "num_key_value_heads")
    if heads % kv_heads:
        expected = f"a divisor of num_attention_heads, {heads}"
        raise wrong("the heads cannot be shared out among the KV heads", "num_key_value_heads", expected, kv_heads)
    if config.get("head_dim") is not None:
        head_dim, field = integer(config, "head_dim"), "head_dim"
    elif hidden % heads:
        expected = f"a divisor of hidden_size, {hidden}, or a head_dim"
        raise wrong("the hidden size cannot be shared out among the heads", "num_attention_heads", expected, heads)
    else:
        head_dim, field = hidden // heads, "hidden_size / num_attention_heads"
    if head_dim % 2:
        raise wrong("RoPE turns pairs of dimensions, and a head has an odd number", field, "even", head_dim)
    return hidden, heads, kv_heads, head_dim
