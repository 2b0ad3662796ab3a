"""The largest error that the rounding of one operation can have: what is beyond it is proven to be a bug.

A limit (`harness.chances`) says what a correct port hardly ever has. These bounds say what it cannot have,
whatever the order of its sums: every rounding is as large as it can be, and all go one way. They hold for one
number, the worst of a tap, on golden inputs (replay), each of which is rounded once on its way in. Sums, norms,
softmax and angles are made in at least float32. n roundings one after the other are gamma_n = n u / (1 - n u) at
most (N. J. Higham, *Accuracy and stability of numerical algorithms*, 2002, chapter 3), u being half an ulp of 1.
The counts below are rounded up generously: one rounding more or less decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from harness.architecture import Architecture, architecture_of
from harness.checkpoint import Checkpoint
from harness.golden import CaseEntry
from harness.metrics import UNIT_ROUNDOFF
from harness.report.document import Report
from harness.report.findings import findings
from harness.results import TapResult
from harness.run.port import Declarations
from harness.run.session import spanning
from harness.run.source import GoldenSource
from harness.run.weights import LAYER_PARAMETERS
from harness.taps import kind_of, name_of

Vector = Float[np.ndarray, " n"]
FREQUENCY = 24  # roundings of a power of theta, whose exponent, rounded, counts ln(theta) times
FEW = 8  # roundings of what is no sum: a product, a root, an exponential, casts in between
SMALLEST = {"float64": 0.0}  # what underflows at float32's range, where that is the range


@dataclass(frozen=True, eq=False)
class Element:
    """One number of a tap, and what it is computed from.

    Attributes:
        at: its index, by dimension.
        unit: unit roundoff of the precision.
        wide: that of sums.
    """

    source: GoldenSource
    case: CaseEntry
    weights: Checkpoint
    arch: Architecture
    tap: str
    at: dict[str, int]
    unit: float
    wide: float

    @property
    def stage(self) -> str:
        return self.tap.rpartition(".")[0]

    @property
    def value(self) -> float:
        """The golden."""
        tap = self.source.taps[self.tap]
        return float(self.source.truth(self.case.name, self.tap)[tuple(self.at[dim] for dim in tap.dims)])

    def input(self, which: int = 0) -> np.ndarray:
        """What feeds it, of its own row and position; of keys and values, of its own head, all slots."""
        name = self.source.taps[self.tap].inputs[which]
        kind = {"cache_k": "k_rope", "cache_v": "v"}.get(kind_of(name)) if not self.case.cached else None
        name = name_of(self.stage, kind) if kind else name
        dims = self.source.taps[name].dims
        groups = self.arch.heads // self.arch.kv_heads
        at = {**self.at, "kv_head": self.at.get("kv_head", self.at.get("head", 0) // groups)}
        whole = ("slot", "key", "hidden", "intermediate", "head_dim")
        keys = kind is not None  # every position is a key
        index = tuple(
            slice(None) if dim in whole or (keys and dim == "position") or dim not in at else at[dim]
            for dim in dims
        )
        return np.asarray(self.source.truth(self.case.name, name)[index])

    def parameter(self, name: str) -> np.ndarray:
        """A parameter of its layer, or of the model."""
        return np.asarray(self.weights.read(name), np.float64)

    def of_layer(self, module: str) -> np.ndarray:
        return self.parameter(f"model.{self.stage}.{LAYER_PARAMETERS[module]}")


def bound(result: TapResult, source: GoldenSource, weights: Checkpoint, arch: Architecture) -> float | None:
    """The largest error that a correct operation can have at `result.worst`, in the tap's own unit.

    Args:
        result: of a replay whose inputs all were goldens, in a case that recorded every operation and position.

    Returns:
        None where there is no such bound: the sums of a precision may be as wrong as they are long.
    """
    case = source.golden.manifest.case(result.case)
    operation = OPERATIONS.get(kind_of(result.tap))
    if operation is None or result.worst is None or case.level != "ops" or case.kept:
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
    found: dict[tuple[str, str, str, str], float] = {}
    weights, arch = None, None
    for worst in (finding.worst for finding in findings(report)):
        if worst.mode != "replay" or worst.verdict != "introduced":
            continue
        source = source_of(worst.precision)
        case = source.golden.manifest.case(worst.case)
        if worst.tap in spanning(source, case, declared):
            continue
        weights = weights or Checkpoint(checkpoint)
        arch = arch or architecture_of(source.golden.manifest.model.config)
        largest = bound(worst, source, weights, arch)
        if largest is not None:
            found[_key(worst)] = largest
    return (
        replace(report, results=tuple(replace(r, bound=found.get(_key(r))) for r in report.results))
        if found
        else report
    )


def _key(result: TapResult) -> tuple[str, str, str, str]:
    return result.case, result.precision, result.mode, result.tap


def _gamma(count: int, unit: float) -> float:
    return count * unit / (1 - count * unit) if count * unit < 0.5 else float("inf")


def _embed(e: Element) -> float:
    return e.unit * abs(e.value)


def _copied(e: Element) -> float:
    return 2 * e.unit * abs(e.value)


def _norm(e: Element) -> float:
    """The sum of squares counts half in its root."""
    size = len(e.input())
    return abs(e.value) * (_gamma(FEW, e.unit) + _gamma(size // 2 + FEW, e.wide))


def _linear(module: str | None, bias: bool = False) -> Callable[[Element], float]:
    def product(e: Element) -> float:
        if module is None:
            row, x = e.parameter(_head(e.arch))[e.at["vocab"]], e.input()
        else:
            kernel = e.of_layer(f"{module}.kernel")
            row, x = kernel[_flat(e)], e.input().reshape(-1)
        own = abs(float(e.of_layer(f"{module}.bias")[_flat(e)])) if bias else 0.0
        size = float(np.abs(row) @ np.abs(x)) + own
        return size * (_gamma(FEW, e.unit) + _gamma(len(x) + FEW, e.wide))

    return product


def _head(arch: Architecture) -> str:
    return "model.embed_tokens.weight" if arch.tied_head else "lm_head.weight"


def _flat(e: Element) -> int:
    """The output of a projection that an element is: heads lie one after the other."""
    head = e.at.get("head", e.at.get("kv_head"))
    if head is not None:
        return head * e.arch.head_dim + e.at["head_dim"]
    return e.at.get("hidden", e.at.get("intermediate", 0))


def _rope(e: Element) -> float:
    x, half = e.input(), e.arch.head_dim // 2
    pair = e.at["head_dim"] % half
    positions = e.source.golden.case(e.case.name).positions
    position = float(positions[e.at["batch"], e.at["position"]])
    angle = abs(position) * math.pow(e.arch.rope_theta, -2 * pair / e.arch.head_dim)
    size = float(abs(x[pair]) + abs(x[pair + half]))
    return size * (angle * FREQUENCY * e.wide + _gamma(FEW, e.unit))


def _probs(e: Element) -> float:
    """exp(s - max) over its sum, s being wrong by as much as its own sum allows; a key that is not seen has 0."""
    tap = e.source.taps[e.tap]
    row = tuple(slice(None) if dim == "key" else e.at[dim] for dim in tap.dims)
    seen = np.flatnonzero(e.source.truth(e.case.name, e.tap)[row])
    if e.value == 0.0:
        return 0.0
    query, keys = e.input(0), e.input(1)[seen]
    scale = e.arch.head_dim**-0.5
    sizes = scale * (np.abs(keys) @ np.abs(query))
    scores = scale * (keys @ query)
    wrong = float(sizes.max()) * (_gamma(FEW, e.unit) + _gamma(e.arch.head_dim + FEW, e.wide))
    spread = float(scores.max() - scores.min())
    of_scores = math.expm1(min(2 * wrong, 700.0)) + 2 * spread * e.wide
    return e.value * (of_scores + _gamma(FEW, e.unit) + _gamma(len(seen) + FEW, e.wide))


def _context(e: Element) -> float:
    probs, values = e.input(0), e.input(1)[..., e.at["head_dim"]]
    seen = np.flatnonzero(probs)
    size = float(np.abs(probs[seen]) @ np.abs(values[seen]))
    return size * (_gamma(FEW, e.unit) + _gamma(len(probs) + FEW, e.wide))


def _sum(e: Element) -> float:
    size = sum(abs(float(e.input(which)[e.at["hidden"]])) for which in (0, 1))
    return size * _gamma(FEW, e.unit)


def _gated(e: Element) -> float:
    """silu(g) u: an error of g counts 1 + |g| times, and so does that of its exponential."""
    gate = float(e.input(0)[e.at["intermediate"]])
    return abs(e.value) * (1 + abs(gate)) * _gamma(FEW, e.unit)


OPERATIONS: dict[str, Callable[[Element], float]] = {
    "embed": _embed,
    "attn_norm": _norm,
    "q": _linear("attn.q", bias=True),
    "k": _linear("attn.k", bias=True),
    "v": _linear("attn.v", bias=True),
    "q_rope": _rope,
    "k_rope": _rope,
    "cache_k": _copied,
    "cache_v": _copied,
    "probs": _probs,
    "context": _context,
    "attn_out": _linear("attn.o"),
    "resid_mid": _sum,
    "mlp_norm": _norm,
    "gate": _linear("mlp.gate"),
    "up": _linear("mlp.up"),
    "act": _gated,
    "mlp_out": _linear("mlp.down"),
    "resid_post": _sum,
    "final_norm": _norm,
    "logits": _linear(None),
}
