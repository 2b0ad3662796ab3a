"""What transformers built from a config, in our own words: two readers of one file have to agree.

A field that transformers reads elsewhere, fills in, or passes over would otherwise be recorded as if it were what
`harness.architecture` read, and every port that follows the config would be accused.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from harness.architecture import Architecture
from harness.errors import CheckpointError
from harness.windows import SLIDING


def refuse_disagreement(arch: Architecture, model: Any, frequencies: torch.Tensor) -> None:
    """Refuse a config that transformers reads differently than the checking side does.

    Args:
        model: the causal language model that transformers built.
        frequencies: of its rotary embedding, float64 [head_dim / 2].

    Raises:
        CheckpointError: naming the first fact in which the two differ.
    """
    ours, theirs = asdict(arch), _facts(model)
    for name, expected in ours.items():
        if theirs[name] != expected:
            raise _disagreement(name, expected, theirs[name])
    scaling = {layer.self_attn.scaling for layer in model.model.layers}
    if scaling != {arch.head_dim**-0.5}:
        raise _disagreement("the scale of the scores", arch.head_dim**-0.5, sorted(scaling))
    exponents = torch.arange(0, arch.head_dim, 2, dtype=torch.float64) / arch.head_dim
    expected = arch.rope_theta**-exponents
    if frequencies.shape != expected.shape or not torch.allclose(frequencies.cpu(), expected, rtol=1e-12, atol=0):
        raise _disagreement("RoPE's frequencies", expected[:8].tolist(), frequencies[:8].tolist())


def _facts(model: Any) -> dict[str, object]:
    """The fields of an `Architecture`, from the modules rather than from the config where they hold them."""
    layers, config = model.model.layers, model.config
    first = layers[0]
    attention, mlp = first.self_attn, first.mlp
    norms = [model.model.norm]
    for layer in layers:
        norms += [layer.input_layernorm, layer.post_attention_layernorm]
    eps = {norm.variance_epsilon for norm in norms}
    return {
        "family": config.model_type,
        "layers": len(layers),
        "hidden": model.model.embed_tokens.embedding_dim,
        "heads": attention.q_proj.out_features // attention.head_dim,
        "kv_heads": attention.k_proj.out_features // attention.head_dim,
        "head_dim": attention.head_dim,
        "intermediate": mlp.gate_proj.out_features,
        "vocab": model.lm_head.out_features,
        "rope_theta": config.rope_parameters["rope_theta"],
        "rms_norm_eps": eps.pop() if len(eps) == 1 else sorted(eps),
        "activation": config.hidden_act,
        "tied_head": config.tie_word_embeddings,
        "windows": tuple(
            layer.self_attn.sliding_window if kind == SLIDING else None
            for layer, kind in zip(layers, config.layer_types, strict=True)
        ),
    }


def _disagreement(fact: str, ours: object, theirs: object) -> CheckpointError:
    return CheckpointError(
        "transformers reads this config differently than the checking side does",
        where=f"config.json: {fact}",
        expected=ours,
        found=f"{theirs}, in what transformers built",
        hint="write config.json in one dialect: AutoConfig.from_pretrained(DIR).save_pretrained(NEW)",
    )
