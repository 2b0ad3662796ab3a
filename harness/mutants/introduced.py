"""Where mutants are introduced: kinds of taps."""

from __future__ import annotations


def kinds(*names: str) -> frozenset[str]:
    """The kinds of taps at which a mutant is introduced."""
    return frozenset(names)


ROTATED = kinds("q_rope", "k_rope", "k_pe_rope")
LATENT = kinds("q_latent", "kv_latent", "k_pe", "kv")
SHARED = kinds("shared_gate", "shared_up", "shared_out", "shared_weight")
EXPERTS = kinds("router_logits", "experts_out")
PROJECTIONS = kinds("q", "k", "v", "attn_out", "gate", "up", "mlp_out") | LATENT | SHARED
EVERY_MATMUL = PROJECTIONS | EXPERTS | {"logits"}
NORMS = kinds("attn_norm", "attn_post_norm", "mlp_norm", "mlp_post_norm", "final_norm")
HEAD_NORMS = kinds("q_norm", "k_norm")
EVERY_NORM = NORMS | HEAD_NORMS
LATENT_NORMS = kinds("q_latent_norm", "kv_latent_norm")
# All that one formula makes, whatever it is of: those of heads may have another.
ALIKE_NORMS = NORMS | LATENT_NORMS
LAYER_NORMS = ALIKE_NORMS | HEAD_NORMS
LAYER_PARAMETERS = PROJECTIONS | EXPERTS | {"router_scores"} | LAYER_NORMS - {"final_norm"}
EVERY_PARAMETER = LAYER_PARAMETERS | {"embed", "final_norm", "logits"}
