"""What of a model's program is which tap, in which arithmetic; what of it is refused, and what a report says."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from harness.errors import HarnessError, PortError
from harness.run.contained import CannotLift
from harness.run.tapping import Session, TracedTap, is_explicit, laid_out
from harness.run.tracing.evaluate import INLINE, Native, opened
from harness.run.tracing.lift import Lifted
from harness.run.tracing.mark import TAP
from harness.run.tracing.rounding import Rounding, rounding_notes
from harness.run.tracing.versions import jaxprs_in_params
from harness.taps import Tap, kind_of, name_of

Ids = Int[Array, "batch position"]
Mask = Bool[Array, "batch position"]
Logits = Float[Array, "batch position vocab"]


@dataclass(frozen=True, eq=False)
class Adaptation:
    """How a value of the model becomes its tap, and the golden a value of the model: inverse to each other.

    Each is called as `(value)` or `(value, batch)`, with the number of rows where it is known.
    """

    to_tap: Callable[..., Array]
    from_tap: Callable[..., Array]


AS_IT_IS = Adaptation(lambda value, batch=None: value, lambda value, batch=None: value)


@dataclass(frozen=True, eq=False)
class Source:
    """What of a program is which tap.

    Attributes:
        taps: all taps of the architecture.
        adaptations: by kind of tap, where the model's values have another layout.
        expected: the names that have to appear.
        recorded_only: kinds that replay need not replace.
    """

    taps: Sequence[Tap]
    adaptations: Mapping[str, Adaptation] = field(default_factory=dict)
    expected: frozenset[str] = frozenset()
    recorded_only: frozenset[str] = frozenset()


class Program:
    """How a model is run on its own or on golden values, tap by tap (`steps.py`).

    Args:
        lift: compute in float64 what the model computes in narrower floats (under `enable_x64`).
    """

    def __init__(self, source: Source, *, lift: bool = False) -> None:
        self.source, self.lift = source, lift
        self.rounding: dict[Hashable, Rounding] = {}
        self.lifted: Lifted | None = None

    def goldens(self, tap: Session) -> dict[str, np.ndarray]:
        """The golden of every tap that a session has, by its whole name."""
        stages = dict.fromkeys(known.stage for known in self.source.taps)
        return {name_of(stage, kind): value for stage in stages for kind, value in tap.goldens(stage).items()}

    def hand_over(
        self, tap: Session, traced: Hashable, goldens: Mapping[str, Any], recorded: Mapping[str, Array]
    ) -> None:
        """Give a session what was recorded, and by whose rounding it is judged where the program was lifted."""
        if traced in self.rounding:
            tap.judge_by(self.rounding[traced].precisions(goldens if tap.replaying else ()))
        for stage, values in _by_stage(recorded).items():
            tap.absorb(stage, values)

    def arithmetic(self) -> Native:
        """How this program computes; asked for anew whenever it is compiled."""
        if not self.lift:
            return Native()
        self.lifted = Lifted()
        return self.lifted

    @property
    def notes(self) -> tuple[str, ...]:
        """What a report has to say about how it was run."""
        if self.lifted is None:
            return ()
        lifted = f"{self.lifted.casts} narrower dtypes and {self.lifted.literals} narrower numbers"
        return (
            f"float64: {lifted} in the port's own code were lifted",
            *rounding_notes(self.rounding.values()),
        )

    def adapted(self, tap: TracedTap, batch: int) -> Callable[[str, Array], Array]:
        """A tap that sees the model's values, of so many rows, in the layout of their taps."""

        def on_tap(name: str, value: Array) -> Array:
            adaptation = self.source.adaptations.get(kind_of(name), AS_IT_IS)
            seen = _rearranged(lambda x: adaptation.to_tap(x, batch), value)
            goes_on = tap(name, seen)
            if goes_on is seen:
                return value
            return laid_out(_rearranged(lambda x: adaptation.from_tap(x, batch), goes_on), value)

        return on_tap

    def refuse(
        self, closed: ClosedJaxpr, watched: Sequence[str | None], unread: frozenset[str] = frozenset()
    ) -> None:
        """Refuse a program that does not make the taps that are expected, or does not go on with what is watched.

        Args:
            unread: kinds that it need not go on with.

        Raises:
            PortError: either.
        """
        made = tap_names(closed.jaxpr) | set(watched)
        for lacking in sorted(self.source.expected - made):
            problem = "the model never makes a value that the port's table names"
            hint = "correct the path in the table, or leave it out: it is then reported as not covered"
            raise PortError(
                problem, lacking, "one call of that sub-module in every forward pass", "none", hint=hint
            )
        for slot, name in enumerate(watched):
            if name is None or kind_of(name) in self.source.recorded_only | unread:
                continue
            if not goes_on(closed.jaxpr, slot):
                problem = "replay cannot put the golden in place of an intermediate: nothing is computed from it"
                hint = "return the value itself and declare its layout, or declare that it can only be recorded: "
                hint += f"recorded_only = ({kind_of(name)!r},)"
                found = "a value made for the dictionary alone"
                raise PortError(problem, name, "the value that the model goes on with", found, hint=hint)


def _rearranged(way: Callable[[Array], Array], value: Array) -> Array:
    """A value in another layout; where the axes of its mesh have no place there, on every device as a whole.

    Splitting 8 numbers on 4 devices into 2 heads of 4 is such a case.
    """
    try:
        return way(value)
    except Exception as error:
        if type(error).__name__ != "ShardingTypeError" or not is_explicit(value):  # JAX has no public name for it
            raise
        mesh = jax.typeof(value).sharding.mesh
        return way(jax.sharding.reshard(value, NamedSharding(mesh, PartitionSpec())))


def liftable(run: Callable[..., Any]) -> Callable[..., Any]:
    """A lifted program, whose failures are the lifting's: as it stands the port has been traced already."""

    def attempt(*arguments: Any) -> Any:
        try:
            return run(*arguments)
        except HarnessError:
            raise
        except Exception as error:
            raise CannotLift(f"the port's forward ({type(error).__name__})", error) from error

    return attempt


def _by_stage(recorded: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    """`layers.3.q` is `q` of stage `layers.3`; `embed` is of the stage without a name."""
    stages: dict[str, dict[str, Array]] = {}
    for name, value in recorded.items():
        stage, _, kind = name.rpartition(".")
        stages.setdefault(stage, {})[kind] = value
    return stages


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
    return any(out is var and live[n] for n, out in enumerate(jaxpr.outvars) if n != slot)
