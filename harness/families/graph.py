"""The taps of a decoder and what each is computed from, as its options decide."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from harness.families.options import Architecture, Latent
from harness.taps import DIMS, LATENT_DIMS, Tap

ENTERING = ""  # stands for the residual stream that enters a layer


@lru_cache(maxsize=8)
def taps_of(arch: Architecture) -> tuple[Tap, ...]:
    """All taps of a decoder, in data-flow order."""
    taps, dims = [Tap("embed", DIMS["embed"], ())], DIMS if arch.mla is None else {**DIMS, **LATENT_DIMS}
    for index in range(arch.layers):
        entering = taps[-1].name
        for kind, inputs in _layer(arch, arch.is_sparse(index)).items():
            names = tuple(entering if name == ENTERING else f"layers.{index}.{name}" for name in inputs)
            taps.append(Tap(f"layers.{index}.{kind}", dims[kind], names))
    taps.append(Tap("final_norm", DIMS["final_norm"], (taps[-1].name,)))
    taps.append(Tap("logits", DIMS["logits"], ("final_norm",)))
    return tuple(taps)


def kinds_of(arch: Architecture, sparse: bool) -> tuple[str, ...]:
    """The kinds of taps of a layer, with experts or without, in data-flow order."""
    return tuple(_layer(arch, sparse))


def with_experts_apart(arch: Architecture, apart: bool) -> Architecture:
    """The same, with a tap for what each chosen expert makes of a token, where there are experts; or without."""
    return arch if arch.experts is None else replace(arch, experts=replace(arch.experts, apart=apart))


@lru_cache(maxsize=64)
def kinds_in(arch: Architecture) -> frozenset[str]:
    """The kinds of taps that a decoder has."""
    return frozenset(tap.kind for tap in taps_of(arch))


@lru_cache(maxsize=64)
def _layer(arch: Architecture, sparse: bool) -> dict[str, tuple[str, ...]]:
    """The kinds of taps of a layer, in data-flow order, each with its inputs."""
    parallel = arch.placement.startswith("parallel")
    normed_first, normed_last = arch.placement != "post", arch.placement in ("post", "sandwich")
    graph: dict[str, tuple[str, ...]] = {}
    read = ENTERING
    if normed_first:
        graph["attn_norm"], read = (ENTERING,), "attn_norm"
    graph |= _attention(arch, read) if arch.mla is None else _latent_attention(arch.mla, read)
    update = "attn_out"
    if normed_last:
        graph["attn_post_norm"], update = ("attn_out",), "attn_post_norm"
    before: tuple[str, ...] = (ENTERING, update)
    if not parallel:
        graph["resid_mid"], before = (ENTERING, update), ("resid_mid",)
        read = "resid_mid"
    if arch.placement == "parallel_two" or (normed_first and not parallel):
        graph["mlp_norm"] = (ENTERING if parallel else "resid_mid",)
        read = "mlp_norm"
    graph |= _experts(arch, read) if sparse else _mlp(arch, read)
    update = "mlp_out"
    if normed_last:
        graph["mlp_post_norm"], update = ("mlp_out",), "mlp_post_norm"
    graph["resid_post"] = (*before, update)
    return graph


def _attention(arch: Architecture, read: str) -> dict[str, tuple[str, ...]]:
    graph: dict[str, tuple[str, ...]] = {"q": (read,), "k": (read,), "v": (read,)}
    if arch.qk_norm:
        graph |= {"q_norm": ("q",), "k_norm": ("k",)}
    return graph | {
        "q_rope": ("q_norm" if arch.qk_norm else "q",),
        "k_rope": ("k_norm" if arch.qk_norm else "k",),
        "cache_k": ("k_rope",),
        "cache_v": ("v",),
        "probs": ("q_rope", "cache_k"),
        "context": ("probs", "cache_v"),
        "attn_out": ("context",),
    }


def _latent_attention(mla: Latent, read: str) -> dict[str, tuple[str, ...]]:
    """Keys and values of earlier calls' tokens are made anew of the cache, those of this call's are `kv`."""
    queries: dict[str, tuple[str, ...]] = {"q": (read,)}
    if mla.q_rank:
        queries = {"q_latent": (read,), "q_latent_norm": ("q_latent",), "q": ("q_latent_norm",)}
    return {
        **queries,
        "kv_latent": (read,),
        "k_pe": (read,),
        "kv_latent_norm": ("kv_latent",),
        "q_rope": ("q",),
        "k_pe_rope": ("k_pe",),
        "cache_latent": ("kv_latent_norm",),
        "cache_k_pe": ("k_pe_rope",),
        "kv": ("cache_latent",),
        "probs": ("q_rope", "kv", "cache_latent", "cache_k_pe"),
        "context": ("probs", "kv", "cache_latent"),
        "attn_out": ("context",),
    }


def _mlp(arch: Architecture, read: str) -> dict[str, tuple[str, ...]]:
    gate = {"gate": (read,)} if arch.gated else {}
    return {**gate, "up": (read,), "act": (*gate, "up"), "mlp_out": ("act",)}


def _experts(arch: Architecture, read: str) -> dict[str, tuple[str, ...]]:
    experts = arch.experts
    assert experts is not None
    graph: dict[str, tuple[str, ...]] = {"router_logits": (read,), "routing": ("router_logits",)}
    if experts.corrected:
        # Scores choose, and what weighs is made of the logits once more.
        graph |= {"router_scores": ("router_logits",), "routing": ("router_logits", "router_scores")}
        graph = {kind: graph[kind] for kind in ("router_logits", "router_scores", "routing")}
    if experts.apart:
        graph |= {"expert_out": (read, "routing"), "experts_out": ("expert_out", "routing")}
    else:
        graph["experts_out"] = (read, "routing")
    summed: tuple[str, ...] = ("experts_out",)
    if experts.shared:
        graph |= {"shared_gate": (read,), "shared_up": (read,), "shared_act": ("shared_gate", "shared_up")}
        graph["shared_out"], summed = ("shared_act",), ("experts_out", "shared_out")
        if experts.shared_gated:
            graph["shared_weight"], summed = (read,), ("experts_out", "shared_out", "shared_weight")
    return graph | {"mlp_out": summed}
