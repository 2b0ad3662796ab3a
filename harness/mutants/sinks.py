"""Bugs of attention's sinks: a score of every head's own, of which the probability goes to no key."""

from __future__ import annotations

from harness.mutants.between import around
from harness.mutants.mutant import Around, kinds
from harness.mutants.needs import Need

SINKS = Need("architecture", lambda m: m.architecture.sinks, "heads have no sinks here")

MUTANTS = (
    around(
        "sinks_missing",
        "exp(s) / sum(exp(s)): no sink, or what it leaves is divided by its sum",
        "exp(s) / (exp(sink) + sum(exp(s)))",
        {"probabilities": Around(lambda right: lambda scores, allowed, *sinks: right(scores, allowed))},
        "https://github.com/NVIDIA/TransformerEngine/pull/3551",
        "https://github.com/vllm-project/vllm-metal/pull/550",
        introduced=kinds("probs"),
        needs=(SINKS,),
    ),
)
