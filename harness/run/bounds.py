"""The largest error that the rounding of one operation can have: what is beyond it is proven to be a bug.

A limit (`harness.tolerances`) says what a correct port hardly ever has. These bounds say what it cannot have,
whatever the order of its sums: every rounding is as large as it can be, and all go one way. They hold for one
number, the worst of a tap, on golden inputs (replay), each of which is rounded once on its way in. Sums, norms,
softmax and angles are made in at least float32. n roundings one after the other are gamma_n = n u / (1 - n u) at
most (N. J. Higham, *Accuracy and stability of numerical algorithms*, 2002, chapter 3), u being half an ulp of 1.
The counts below are rounded up generously: one rounding more or less decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.along import spans_of
from harness.architecture import Architecture, architecture_of
from harness.checkpoint import Checkpoint, open_checkpoint
from harness.families.frequencies import frequencies, grown, within
from harness.families.parameters import HEAD_NORMS, LATENT_NORMS, NORMS, outputs
from harness.layout import layer_of
from harness.metrics import UNIT_ROUNDOFF
from harness.report.document import Report
from harness.report.findings import unexplained
from harness.results import TapResult
from harness.run.comparing import fused_taps
from harness.run.element import Attended, Element
from harness.run.passes import judged_alone
from harness.run.port import Declarations
from harness.run.source import GoldenSource
from harness.taps import CACHED, kind_of, name_of

FREQUENCY = 24  # roundings of a power of theta, whose exponent, rounded, counts ln(theta) times
FEW = 8  # roundings of what is no sum: a product, a root, an exponential, casts in between
SMALLEST = {"float64": 0.0}  # what underflows at float32's range, where that is the range


def bound(result: TapResult, source: GoldenSource, weights: Checkpoint, arch: Architecture) -> float | None:
    """The largest error that a correct operation can have at `result.worst`, in the tap's own unit.

    Args:
        result: of a replay whose inputs all were goldens, in a case that recorded every position.

    Returns:
        None where there is no such bound: the sums of a precision may be as wrong as they are long.
    """
    case = source.golden.manifest.case(result.case)
    operation = OPERATIONS.get(kind_of(result.tap))
    if kind_of(result.tap) == "mlp_out" and arch.is_sparse(layer_of(result.tap) or 0):
        operation = _experts_sum
    if operation is None or result.worst is None or case.kept:
        return None
    if result.tap not in judged_alone(case, source.taps.values()):
        return None
    if operation is _rope and source.from_pads:
        return None  # its positions are the port's, and not the golden's
    precision = result.rounding or result.precision
    unit = UNIT_ROUNDOFF[precision]
    wide = min(unit, UNIT_ROUNDOFF["float32"])
    element = Element(source, case, weights, arch, result.tap, dict(result.worst.index), unit, wide)
    largest = operation(element) + SMALLEST.get(precision, float(np.finfo(np.float32).tiny))
    return largest if np.isfinite(largest) else None


def with_bounds(
    report: Report, declared: Declarations, source_of: Callable[[str], GoldenSource], checkpoint: Path
) -> Report:
    """The report with the bounds of what it shows of its findings, where all inputs were goldens."""
    bounds: dict[tuple[str, str, str, str], float] = {}
    weights, arch = None, None
    for worst in (finding.worst for finding in unexplained(report)):
        if worst.mode != "replay" or worst.verdict != "introduced":
            continue
        source = source_of(worst.precision)
        case = source.golden.manifest.case(worst.case)
        if worst.tap in fused_taps(source, case, declared):
            continue
        weights = weights or open_checkpoint(checkpoint, source.golden.manifest.model.config)
        arch = arch or architecture_of(source.golden.manifest.model.config)
        largest = bound(worst, source, weights, arch)
        if largest is not None:
            bounds[_key(worst)] = largest
    if not bounds:
        return report
    return replace(report, results=tuple(replace(r, bound=bounds.get(_key(r))) for r in report.results))


def _key(result: TapResult) -> tuple[str, str, str, str]:
    return result.case, result.precision, result.mode, result.tap


def _gamma(count: int, unit: float) -> float:
    return count * unit / (1 - count * unit) if count * unit < 0.5 else float("inf")


def _embed(e: Element) -> float:
    """A copy, and a product where there is a factor; a sum of two tables is bounded by neither."""
    if e.arch.learned_positions:
        return math.inf
    return (1 if e.arch.embed_scale == 1.0 else FEW) * e.unit * abs(e.value)


def _copied(e: Element) -> float:
    return 2 * e.unit * abs(e.value)


def _norm(e: Element) -> float:
    """The sum of squares counts half in its root. Of a difference from the mean nothing is known."""
    head = kind_of(e.tap) in HEAD_NORMS
    spec = e.arch.qk_norm if head else e.arch.norm
    if kind_of(e.tap) in LATENT_NORMS and e.arch.mla is not None:
        spec = e.arch.mla.norm
    if spec is None or spec.centered or spec.bias:
        return math.inf
    size = outputs(e.arch)[kind_of(e.tap)[0]] if head and e.arch.qk_norm_over == "all" else len(e.input())
    return abs(e.value) * (_gamma(FEW, e.unit) + _gamma(size // 2 + FEW, e.wide))


def _linear(e: Element) -> float:
    """The sizes of all products, and of a bias; a cap on logits makes an error smaller, and a factor scales it."""
    layer, kind = layer_of(e.tap), kind_of(e.tap)
    if layer is not None and kind not in ("router_logits", *outputs(e.arch, e.arch.is_sparse(layer))):
        return math.inf  # of experts it is a sum
    at = _flat(e)
    row, x = e.parameter()[at], e.input().reshape(-1)
    biased = kind in e.arch.biases or (kind == "router_logits" and e.arch.experts and e.arch.experts.bias)
    own = abs(float(e.parameter("bias")[at])) if biased else 0.0
    size = float(np.abs(row) @ np.abs(x)) + own
    factor = abs(e.arch.logit_scale) if kind == "logits" else 1.0
    return factor * size * (_gamma(FEW, e.unit) + _gamma(len(x) + FEW, e.wide))


def _flat(e: Element) -> int:
    """The output of a projection that an element is: heads lie one after the other."""
    head = e.at.get("head", e.at.get("kv_head"))
    if head is not None:
        sizes = e.arch.sizes(1, 1)
        return next(head * sizes[dim] + e.at[dim] for dim in ("head_dim", "qk_dim", "kv_dim") if dim in e.at)
    flat = ("hidden", "intermediate", "expert", "vocab", "q_rank", "kv_rank", "rope_dim")
    return next(e.at[dim] for dim in flat if dim in e.at)


def _rope(e: Element) -> float:
    x, rope = e.input(), e.arch.ropes[layer_of(e.tap) or 0]
    dim = next(e.at[dim] for dim in ("head_dim", "qk_dim", "rope_dim") if dim in e.at)
    if rope is not None and rope.last:
        dim, x = dim - (len(x) - rope.dims), x[-rope.dims :]
    if rope is None or not 0 <= dim < rope.dims:
        return _copied(e)
    half = rope.dims // 2
    pair = dim // 2 if rope.interleaved and not rope.deinterleaved else dim % half
    first, second = (2 * pair, 2 * pair + 1) if rope.interleaved else (pair, pair + half)
    positions = e.source.golden.case(e.case.name).positions
    position = float(positions[e.at["batch"], e.at["position"]])
    speeds, factor = frequencies(within(rope, int(positions.max())))
    size = factor * float(abs(x[first]) + abs(x[second]))
    if rope.growth and kind_of(e.tap) == "q_rope":
        size *= float(grown(np.array(position), rope))
    return size * (abs(position) * float(speeds[pair]) * FREQUENCY * e.wide + _gamma(FEW, e.unit))


def _probs(e: Element) -> float:
    """exp(s - max) over its sum, s being wrong by as much as its own sum allows; a key that is not seen has 0."""
    tap = e.source.taps[e.tap]
    row = tuple(slice(None) if dim == "key" else e.at[dim] for dim in tap.dims)
    seen = np.flatnonzero(e.source.truth(e.case.name, e.tap)[row])
    if e.arch.score_cap is not None:
        return math.inf
    if e.value == 0.0:
        return 0.0
    query = e.input(0)
    if e.arch.mla is None:
        keys = Attended.given(e.input(1)[seen])
    else:
        keys = _of_latents(e, slice(e.arch.mla.nope)).beside(Attended.given(e.input(3))).of(seen)
    scores = e.arch.scale * (keys.values @ query)
    rounding = _gamma(FEW, e.unit) + _gamma(e.arch.head_dim + FEW, e.wide)
    wrong = e.arch.scale * float(((rounding * keys.sizes + keys.wrong) @ np.abs(query)).max())
    spread = float(scores.max() - scores.min())
    of_scores = math.expm1(min(2 * wrong, 700.0)) + 2 * spread * e.wide
    return e.value * (of_scores + _gamma(FEW, e.unit) + _gamma(len(seen) + FEW, e.wide))


def _context(e: Element) -> float:
    probs = e.input(0)
    if e.arch.mla is None:
        values = Attended.given(e.input(1)[:, [e.at["head_dim"]]])
    else:
        dim = e.arch.mla.nope + e.at["value_dim"]
        values = _of_latents(e, slice(dim, dim + 1))
    seen = np.flatnonzero(probs)
    rounding = _gamma(FEW, e.unit) + _gamma(len(probs) + FEW, e.wide)
    return float(np.abs(probs[seen]) @ (rounding * values.sizes + values.wrong)[seen, 0])


def _of_latents(e: Element, part: slice) -> Attended:
    """What latent attention reads of every slot, some dimensions of a head's keys and values."""
    kv = replace(e, tap=name_of(e.stage, "kv"))
    truth = np.asarray(e.source.truth(e.case.name, kv.tap))[e.at["batch"], :, e.at["head"], part]
    if not e.case.cached:
        return Attended.given(truth)
    earlier = next(span.start for span in spans_of(e.case.calls) if e.at["position"] < span.stop)
    matrix = kv.parameter().reshape(e.arch.heads, -1, e.input(2).shape[-1])[e.at["head"], part]
    rounding = _gamma(FEW, e.unit) + _gamma(matrix.shape[-1] + FEW, e.wide)
    return Attended.made(truth, e.input(2), matrix, earlier, rounding)


def _sum(e: Element) -> float:
    stream, *updates = (abs(float(e.input(i)[e.at["hidden"]])) for i in range(len(e.source.taps[e.tap].inputs)))
    return (stream + abs(e.arch.residual_scale) * sum(updates)) * _gamma(FEW, e.unit)


def _experts_sum(e: Element) -> float:
    """What all experts give, and the shared one, which a weight of at most 1 may multiply."""
    parts = e.source.taps[e.tap].inputs[:2]
    return sum(abs(float(e.input(i)[e.at["hidden"]])) for i in range(len(parts))) * _gamma(FEW, e.unit)


def _act(e: Element) -> float:
    """silu(g) u: an error of g counts 1 + |g| times, and so does that of its exponential."""
    if e.arch.activation != "silu":
        return math.inf
    gate = float(e.input(0)[e.at["intermediate"]])
    return abs(e.value) * (1 + abs(gate)) * _gamma(FEW, e.unit)


OPERATIONS: dict[str, Callable[[Element], float]] = {
    "embed": _embed,
    **dict.fromkeys((*NORMS, *HEAD_NORMS, *LATENT_NORMS, "final_norm"), _norm),
    **dict.fromkeys(("q", "k", "v", "attn_out", "gate", "up", "mlp_out", "router_logits", "logits"), _linear),
    **dict.fromkeys(("q_latent", "kv_latent", "k_pe", "kv"), _linear),
    **dict.fromkeys(("q_rope", "k_rope", "k_pe_rope"), _rope),
    **dict.fromkeys(CACHED, _copied),
    "probs": _probs,
    "context": _context,
    **dict.fromkeys(("resid_mid", "resid_post"), _sum),
    "act": _act,
}
