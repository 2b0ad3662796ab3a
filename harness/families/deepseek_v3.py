"""DeepSeek-V3, and Kimi K2, which is one: latent attention, and experts in all layers but the first few."""

from __future__ import annotations

from dataclasses import replace

from harness.families import latent
from harness.families.family import CORRECTED, EACH, EXPERTS, SHARED, Family
from harness.families.options import Architecture, Experts
from harness.families.reading import count, decoder, factor, flag, layers_of, rms_norm
from harness.families.rope import rope
from harness.fields import Config, integer, wrong

# What decides about experts, and nothing where no layer has some.
OF_EXPERTS = (
    "n_routed_experts",
    "n_shared_experts",
    "moe_intermediate_size",
    "num_experts_per_tok",
    "n_group",
    "topk_group",
    "norm_topk_prob",
    "routed_scaling_factor",
)
HARMLESS = frozenset(
    {"aux_loss_alpha", "seq_aux", "ep_size", "num_nextn_predict_layers", "num_mtp_layers", "output_router_logits"}
)


def read(config: Config) -> Architecture:
    mla, layers = latent.latent(config), layers_of(config)
    # The defaults are those of DeepseekV3Config.
    interleaved = flag(config, "rope_interleave", True)
    one = rope(config, mla.rope, kinds=("default", "yarn"), interleaved=interleaved)
    one = replace(one, deinterleaved=interleaved, last=True)
    return decoder(
        config,
        sizes=latent.sizes(config, mla),
        norm=rms_norm(config),
        ropes=(one,) * layers,
        scale=latent.scale(mla, one),
        biases=latent.BIASED if flag(config, "attention_bias", False) else frozenset(),
        tied_head=flag(config, "tie_word_embeddings", False),
        mla=mla,
        experts=_experts(config, layers),
    )


def _experts(config: Config, layers: int) -> Experts | None:
    sparse = sparse_layers(config, layers, 3)
    if not any(sparse):
        return None
    groups, chosen_groups = count(config, "n_group", 8), count(config, "topk_group", 4)
    return grouped(
        Experts(
            layers=sparse,
            count=integer(config, "n_routed_experts"),
            chosen=count(config, "num_experts_per_tok", 8),
            intermediate=integer(config, "moe_intermediate_size"),
            score="sigmoid",
            corrected=True,
            groups=groups,
            chosen_groups=chosen_groups,
            group_by="best_two",
            renormed=1e-20 if flag(config, "norm_topk_prob", True) else None,
            factor=2.5 if config.get("routed_scaling_factor") is None else factor(config, "routed_scaling_factor"),
            logits_wide=True,
            weights_wide=True,
            shared=integer(config, "moe_intermediate_size") * count(config, "n_shared_experts", 1),
        )
    )


def sparse_layers(config: Config, layers: int, absent: int) -> tuple[bool, ...]:
    """By layer, whether it has experts: all but the first few. Where none has, nothing about them counts."""
    first = count(config, "first_k_dense_replace", absent, least=0)
    for field in OF_EXPERTS if first >= layers else ():
        config.get(field)
    return tuple(index >= first for index in range(layers))


def grouped(experts: Experts) -> Experts:
    """The same experts.

    Raises:
        CheckpointError: they cannot be shared out among the groups, or chosen within those that are chosen.
    """
    groups, each = experts.groups, experts.count // experts.groups
    # A group is chosen by its best two experts.
    least = 2 if experts.group_by == "best_two" else 1
    if experts.count % groups or each < least:
        expected = f"a number that has {experts.count} experts in groups of {least} or more"
        raise wrong("the experts cannot be shared out among the groups", "n_group", expected, groups)
    if not 1 <= experts.chosen_groups <= groups:
        raise wrong("more groups are chosen than there are", "topk_group", f"1 to {groups}", experts.chosen_groups)
    most = experts.chosen_groups * each
    if experts.chosen > most:
        expected = f"at most {most}, those of {experts.chosen_groups} groups"
        raise wrong("more experts are chosen than there are", "num_experts_per_tok", expected, experts.chosen)
    return experts


FAMILIES = (
    Family(
        model_type="deepseek_v3",
        classes=("DeepseekV3ForCausalLM", "DeepseekV3Model"),
        read=read,
        layer=latent.PATHS,
        undivided=latent.UNDIVIDED,
        sparse={**EXPERTS, **CORRECTED, **SHARED},
        each=EACH,
        # The layer for the token after the next, which transformers does not run.
        stored={r"^model\.layers\.61\.": None},
        harmless=HARMLESS,
        only={"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1},
    ),
)
