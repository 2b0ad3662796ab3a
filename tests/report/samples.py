"""A small failing report, as a check with a wrong RoPE would give it."""

from __future__ import annotations

from dataclasses import replace

from harness.report.criteria import acceptance
from harness.report.document import GoldenReference, LimitEntry, Report
from harness.results import Flip, LogitStatistics, TapResult, Worst
from harness.selecting import at_level
from harness.verdict import first_divergence, introduced, overall
from tests.small_decoder import decoder_taps

TAPS = {tap.name: tap for tap in at_level(decoder_taps(layers=2), "ops", cached=False)}
ROPE = ("layers.0.q_rope", "layers.1.q_rope")
ENVIRONMENT = {
    "libraries": {"jax": "0.10", "flax": "0.12", "python": "3.11"},
    "backend": "cpu",
    "devices": ["cpu"],
    "precision": {"float32": {"dtype": "float32", "x64": False, "matmul_precision": "highest"}},
}


def result(tap, mode="replay", verdict="match", multiple=1.2, case="code", profile=(1.0, 1.1, 1.2, 1.2)):
    return TapResult(
        case=case,
        precision="float32",
        mode=mode,
        tap=tap,
        verdict=verdict,
        rms_multiple=multiple,
        max_multiple=multiple,
        overall_multiple=multiple / 2,
        rms_limit=4.0,
        max_limit=8.0,
        overall_limit=3.0,
        chance=0.5 if verdict == "match" else 0.0,
        max_abs=1e-6 * multiple,
        mean_abs=1e-7 * multiple,
        rel_rms=1e-7 * multiple,
        position_r=0.9,
        position_note=None if verdict != "match" else "r means nothing: the error is within the noise",
        growth_p=0.001 if verdict != "match" else None,
        worst=Worst({"batch": 0, "position": 3, "head": 1, "head_dim": 2}, -0.5, 2.0),
        profile=profile,
        limits=tuple(None if value is None else 4.0 for value in profile),
    )


def build(*results: TapResult) -> Report:
    return Report(
        schema=1,
        kind="check",
        golden=GoldenReference("ab" * 32, "golden.h5", "org/model", {"torch": "2.13", "hardware": {"cpu": "x"}}),
        port="my_port:Port",
        environment=ENVIRONMENT,
        notes=(),
        verdict=overall(results),
        introduced=introduced(results, list(TAPS)),
        first_divergence=first_divergence(results, list(TAPS)),
        acceptance=acceptance(results),
        limits={"float32": LimitEntry(4.0, 1.0, 1.0, "measured", 1.3e4)},
        taps={name: tap.inputs for name, tap in TAPS.items()},
        not_covered=("precision bfloat16: not asked for",),
        results=tuple(results),
    )


LOGITS = replace(
    result("logits", "forward", "inherited", 5e5),
    logits=LogitStatistics(0.1, 0.4, 0.5, 0.5, (Flip(3, 7, 9, 1.5, 1e-6, tie=False),), 0.01, 0.98, 4),
)
GROWING = (0.5, 1e5, 2e5, 4e5)

REPORT = build(
    *(result(tap, verdict="introduced", multiple=4.1e5, profile=GROWING) for tap in ROPE),
    *(result(tap, case="hello", profile=(0.5,)) for tap in (*ROPE, "layers.0.q", "layers.1.q")),
    *(result(name) for name in TAPS if name not in ROPE),
    result("layers.0.probs", "forward", "inherited", 3e5),
    LOGITS,
)

PASSING = build(
    *(result(name) for name in TAPS),
    replace(
        result("logits", "forward"),
        logits=LogitStatistics(1e-9, 1e-9, 1e-9, 1.0, (), 1e-14, 1.0, 4),
    ),
)
