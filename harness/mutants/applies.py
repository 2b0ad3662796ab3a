"""Whether a mutant is a bug in an architecture at all, and why not where it is none."""

from __future__ import annotations

from harness.architecture import Architecture, Config, difference
from harness.errors import CheckpointError
from harness.families.graph import kinds_in
from harness.families.options import Experts
from harness.mutants.introduced import ROTATED
from harness.mutants.mutant import ConfigChange, Mutant, OperationChange, OptionChange
from harness.mutants.needs import ModelFacts
from harness.run.arithmetic import operations_of
from harness.run.operations import OPERATIONS

OF_HEADS = frozenset({"repeat_k", "repeat_v", "write_k", "write_v", "grow_q", "grow_k", "norm_then_turn"})
OF_LATENTS = frozenset(
    {"q_latent_norm", "kv_latent_norm", "split_kv", "join_key", "kept_of_tokens", "write_latent", "write_k_pe"}
)
OF_EXPERTS = frozenset(
    {"router", "corrected", "in_groups", "choose", "weigh", "renormed", "routing_scale", "dense", "expert_act"}
    | {"experts_out", "shared_act", "gated_shared", "experts_sum"}
)


def not_here(mutant: Mutant, model: ModelFacts) -> str | None:
    """Why a mutant cannot be in a model, or is no bug in it; None where it is one."""
    arch, change = model.architecture, mutant.change
    here = mutant.introduced & kinds_in(arch)
    if mutant.introduced and not here:
        return f"this model has no {' or '.join(sorted(mutant.introduced))}"
    if here and here <= ROTATED and not any(arch.ropes):
        return "no layer of this model has RoPE"
    lacking = next((n.lacking for n in mutant.needs if n.of == "architecture" and not n.holds(model)), None)
    if lacking:
        return lacking
    if isinstance(change, ConfigChange) and not _changes(change, model.config):
        return "that is what the config says here"
    if isinstance(change, OptionChange) and change.options(arch) == arch:
        return change.lacking
    if isinstance(change, OperationChange):
        if change.replaced and change.replaced.keys() <= _never_run(arch):
            return f"this model has no {' or '.join(sorted(change.replaced))}"
        own = operations_of(arch)
        differing = [name for name in change.formulas() if getattr(own, name) is not getattr(OPERATIONS, name)]
        if differing:
            return f"{', '.join(differing)}: this model has another formula, of which this is no variant"
    return None


def _never_run(arch: Architecture) -> frozenset[str]:
    """Operations of the decoder that this architecture has no place for."""
    parallel = arch.placement.startswith("parallel")
    after_each_other = {"attn_residual", "mlp_residual", "carried", "left_unnormed"}
    never = after_each_other if parallel else {"parallel_residual", "read_beside"}
    never |= {"activated"} if arch.gated else {"gated"}
    never |= set() if arch.placement == "post" else {"read_unnormed"}
    never |= set() if arch.placement == "pre" else {"added_unnormed"}
    never |= OF_LATENTS if arch.mla is None else OF_HEADS
    never |= OF_EXPERTS if arch.experts is None else _unused_by(arch.experts)
    return frozenset(never | (set() if arch.qk_norm else {"norm_heads"}))


def _unused_by(experts: Experts) -> set[str]:
    never = set() if experts.shared else {"shared_act"}
    never |= set() if experts.shared_gated else {"gated_shared"}
    never |= {"gated", "activated"} if all(experts.layers) else set()
    return never | (set() if experts.corrected else {"corrected"})


def _changes(change: ConfigChange, config: Config) -> bool:
    """Whether a config that is read wrongly describes another function, or none."""
    try:
        return bool(difference(config, {**config, **change.fields(config)}))
    except CheckpointError:
        return True
