"""What a jaxpr says about taps before it is run: which there are, and whether a value goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jax.extend.core import Jaxpr, JaxprEqn, Var

from harness.run.tracing.evaluate import INLINE, opened
from harness.run.tracing.mark import TAP
from harness.run.tracing.versions import jaxprs_in_params


def marks_in(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """All marked values, nested code included."""
    for eqn in jaxpr.eqns:
        if eqn.primitive is TAP:
            yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from marks_in(inner)


def tap_names(jaxpr: Jaxpr) -> set[str]:
    """The names of all marked values; `{i}` where a scan counts."""
    return {mark.params["name"] for mark in marks_in(jaxpr)}


def goes_on(jaxpr: Jaxpr, slot: int, live: Sequence[bool] | None = None) -> bool:
    """Whether anything but the output itself is computed from the value of output `slot`.

    Only then does replay, which puts the golden in its place, change what comes after.

    Args:
        live: by output, whether something outside goes on with it; without it the first one (the logits) is.
    """
    outputs = list(jaxpr.outvars)
    var = outputs[slot]
    if not isinstance(var, Var):
        return False
    live = [n == 0 for n in range(len(outputs))] if live is None else live
    if _is_live(jaxpr, var, live, slot):
        return True
    maker = next((eqn for eqn in jaxpr.eqns if any(var is made for made in eqn.outvars)), None)
    if maker is None:
        return False
    inner_slot = next(n for n, made in enumerate(maker.outvars) if made is var)
    inner_live = [_is_live(jaxpr, made, live, slot) for made in maker.outvars]
    name = maker.primitive.name
    if name in INLINE:
        return goes_on(opened(maker.params[INLINE[name]])[0], inner_slot, inner_live)
    if name == "scan" and inner_slot >= maker.params["num_carry"]:
        inner_live[: maker.params["num_carry"]] = [True] * maker.params["num_carry"]
        return goes_on(opened(maker.params["jaxpr"])[0], inner_slot, inner_live)
    return False


def _is_live(jaxpr: Jaxpr, var: object, live: Sequence[bool], slot: int) -> bool:
    """Whether anything reads a variable, in here or from another output than `slot`."""
    if any(var is atom for eqn in jaxpr.eqns for atom in eqn.invars):
        return True
    return any(other is var and live[n] for n, other in enumerate(jaxpr.outvars) if n != slot)
