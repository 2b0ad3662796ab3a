"""Mutants with a free value: another eps, theta, scale or window than the catalogue's own.

A port rarely has exactly the wrong constant that the catalogue has. The value that explains the port best is
fitted, and then held to the same limit as any other explanation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harness.mutants.configs import eps, theta
from harness.mutants.diagnosis import values
from harness.mutants.diagnosis import values_of_experts as moe
from harness.mutants.dispatch import capacity
from harness.mutants.expert_sums import shared_times
from harness.mutants.layouts import columns, rows
from harness.mutants.loading import layer_from
from harness.mutants.mutant import Change, Mutant, OperationChange


@dataclass(frozen=True, eq=False)
class Family:
    """One mutant of the catalogue with its value left open.

    Attributes:
        mutant: the id of the mutant that stands for the family.
        symbol: what the value is called.
        change: value -> what is planted.
        grid: values to try; the fit starts at the best of them.
        wrong: what a port computes with a value `{}`.
        fixed: only these values make sense: they are counts.
        by_layer: every layer has a value of its own.
        forms: what the values stand for, where they only count forms of one bug.
    """

    mutant: str
    symbol: str
    change: Callable[[float], Change]
    grid: tuple[float, ...]
    wrong: str = ""
    fixed: bool = False
    by_layer: bool = False
    forms: tuple[str, ...] = ()

    @property
    def around(self) -> bool:
        """Whether it goes around an operation, and so together with another bug of that operation."""
        change = self.change(self.grid[0])
        return isinstance(change, OperationChange) and not change.formulas()

    def words(self, value: float) -> str:
        return self.forms[round(value)] if self.forms else f"{self.symbol} {value:.6g}"

    def wrong_with(self, value: float, mutant: Mutant) -> str:
        """What a port computes with this value; where values only count forms, what the catalogue says."""
        return self.wrong.format(f"{value:.6g}") if self.wrong else mutant.wrong


def _forms(mutant: str, **forms: Change) -> Family:
    """A bug that is written in several ways, which differ in the last digits or in the direction."""
    changes = tuple(forms.values())
    names = tuple(name.replace("_", " ") for name in forms)
    counts = tuple(float(i) for i in range(len(forms)))
    return Family(mutant, "form", lambda v: changes[round(v)], counts, fixed=True, forms=names)


def _decades(low: float, high: float, each: int = 4) -> tuple[float, ...]:
    """Values between two powers of ten, `each` to a decade."""
    return tuple(float(v) for v in np.logspace(low, high, round((high - low) * each) + 1))


COUNTS = (*range(1, 33), 48, 64, 96, 128, 256, 512, 1024, 4096)
FAMILIES = (
    Family("theta_1e4", "theta =", theta, _decades(1, 9), "theta = {}"),
    Family(
        "eps_1e5",
        "eps =",
        eps,
        (0.0, *_decades(-13, -1, 1)),
        "eps = {}",
    ),
    Family("scale_missing", "scale =", values.scale_of, _decades(-3, 2), "{} q . k"),
    Family("scores_softcapped", "cap =", values.score_cap, _decades(0, 3), "{0} tanh(s / {0})"),
    Family("head_softcapped", "cap =", values.head_cap, _decades(0, 3), "logits = {0} tanh(W h / {0})"),
    Family("head_scaled", "factor =", values.head_scale, _decades(-3, 3, 1), "logits = {} W h"),
    Family("embed_scaled", "factor =", values.embed_scale, _decades(-3, 3, 1), "x = {} E[id]"),
    Family(
        "embed_off_by_one", "rows away:", values.rows_away, (-3, -2, -1, 1, 2, 3), "x = E[id + {}]", fixed=True
    ),
    Family("residual_multiplied", "factor =", values.update_scale, _decades(-3, 3, 1), "residual + {} update"),
    Family(
        "norm_plus_one",
        "added to the weight:",
        values.weight_offset,
        (-1.0, 0.5, 1.0, 2.0),
        "norm * (weight + {})",
    ),
    Family(
        "positions_shifted",
        "shift =",
        values.position_shift,
        tuple(n for n in range(-8, 9) if n),
        "position + {}",
        fixed=True,
    ),
    Family("positions_scaled", "factor =", values.position_scale, _decades(-2, 2, 8), "{} position"),
    Family(
        "rope_half_of_dims",
        "rotated",
        values.rotated_features,
        tuple(n for n in COUNTS if n % 2 == 0),
        "the first {} features of a head are rotated",
        fixed=True,
    ),
    Family(
        "causal_one_ahead",
        "last key: query plus",
        values.last_key,
        (-3, -2, -1, 1, 2, 3, 4),
        "key <= query + {}",
        fixed=True,
    ),
    Family(
        "window_512", "window =", values.window_of, COUNTS, "query - {} < key <= query, in every layer", fixed=True
    ),
    Family("mask_minus_10", "hidden scores less", values.mask_added, _decades(-1, 4), "s - {}"),
    Family(
        "mask_multiplied",
        "hidden scores: minus",
        values.mask_constant,
        (0.0, *_decades(-1, 4)),
        "s = -{}, before the softmax",
    ),
    Family("softmax_sink", "sink =", values.sink, (-4.0, -2.0, 0.0, 2.0, 4.0), "exp(s) / (exp({}) + sum(exp(s)))"),
    Family(
        "activation_quick_gelu", "slope =", values.sigmoid_slope, _decades(-1, 1), "gate sigmoid({} gate) * up"
    ),
    Family(
        "activation_clamped",
        "limit =",
        values.activation_limit,
        _decades(-1, 1, 8),
        "gate at most {0}, up between -{0} and {0}",
    ),
    Family("routing_factor_missing", "factor =", moe.routing_factor, _decades(-2, 2, 1), "weights times {}"),
    Family(
        "router_one_fewer_chosen",
        "experts of a token:",
        moe.chosen,
        tuple(range(1, 17)),
        "a token goes to {} experts",
        fixed=True,
    ),
    Family(
        "routing_over_capacity",
        "capacity factor =",
        capacity,
        (0.25, 0.5, 0.75, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0),
        "tokens are dropped by an expert that has {} times its share of them already",
        fixed=True,
    ),
    Family("experts_alpha_missing", "alpha =", moe.alpha, _decades(-1, 1), "alpha = {}"),
    Family("experts_clamp_missing", "limit =", moe.limit, _decades(-1, 2), "a limit of {}"),
    Family(
        "experts_shifted",
        "experts further:",
        moe.experts_further,
        (-4, -3, -2, -1, 2, 3, 4),
        "every expert has the matrices of the one {} further",
        fixed=True,
    ),
    Family(
        "expert_not_loaded",
        "expert",
        moe.expert_zero,
        tuple(range(64)),
        "the matrices of expert {} stay at 0",
        fixed=True,
    ),
    Family(
        "shared_expert_scaled", "factor =", shared_times, _decades(-2, 2, 1), "the shared expert's part times {}"
    ),
    Family("latent_norms_eps", "eps =", moe.latent_eps, (0.0, *_decades(-13, -1, 1)), "eps of latents = {}"),
    _forms(
        "norm_narrow",
        divided_by_a_root=values.every_norm(values.narrow_divided),
        squares_alone=values.every_norm(values.narrow_squares),
    ),
    _forms(
        "softmax_narrow",
        scores_alone=values.operation(probabilities=values.narrow_scores),
        probabilities_alone=values.operation(probabilities=values.narrow_probabilities),
        scores_and_probabilities=values.operation(probabilities=values.narrow_both),
        exp_over_sum=values.operation(probabilities=values.narrow_by_hand),
    ),
    _forms("q_heads_reshaped", the_other_way_round=rows("q", by=values.dims_as_heads)),
    _forms("kv_heads_reshaped", the_other_way_round=rows("k", "v", by=values.dims_as_heads)),
    _forms("o_heads_reshaped", the_other_way_round=columns(values.dims_as_heads)),
    Family(
        "layers_shifted",
        "weights of layer",
        lambda v: layer_from(lambda index, count: round(v) % count),
        tuple(range(128)),
        "a layer has the weights of another",
        fixed=True,
        by_layer=True,
    ),
)
