"""How taps reach the harness: from plain Python, and from inside `jax.jit`.

A port calls `tap(name, value)` and goes on with what comes back. Outside a check the value itself comes back
(`no_tap`); in a check it is compared; in replay the golden comes back. Inside `jax.jit` nothing can be handed
over while the function runs, so `Tapped` passes the goldens in as arguments and the values out as results.

Where a mixture of experts runs on its own values, a token that goes to other experts than in the golden is
**pinned**: what goes on at `routing` is the golden's row, and what is recorded and compared is the port's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeGuard, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.experimental import multihost_utils
from jax.sharding import AxisType

from harness.errors import PortError
from harness.taps import DIMS, PINNED, kind_of, name_of

Goldens = Mapping[str, np.ndarray]
GROWING_AXES = {
    kind: tuple(axis for axis, dim in enumerate(dims) if dim in ("slot", "key")) for kind, dims in DIMS.items()
}


class TapFunction(Protocol):
    """What a port is given: `tap(name, value) -> value`."""

    def __call__(self, name: str, value: jax.Array) -> jax.Array: ...


def no_tap(name: str, value: jax.Array) -> jax.Array:
    """The tap outside a check: it returns its argument."""
    return value


@runtime_checkable
class Session(TapFunction, Protocol):
    """A tap that is part of a check: one case in one mode (see `harness.run.session`)."""

    replaying: bool

    def goldens(self, stage: str) -> Goldens:
        """The golden values of a stage's taps, by kind, rounded to the precision of the check.

        NaN where the golden has none: the port's own value goes on there. Where nothing is replayed, anything of
        that shape and dtype; but of `PINNED` kinds the golden where it is pinned to, and NaN where it is not.
        """
        ...

    def judge_by(self, rounding: Mapping[str, str]) -> None:
        """By tap, the precision whose rounding it is judged by, where that is not the check's own."""
        ...

    def absorb(self, stage: str, recorded: Mapping[str, jax.Array | np.ndarray]) -> None:
        """Take over what a stage's taps were, by kind."""
        ...


def is_session(tap: TapFunction) -> TypeGuard[Session]:
    """Whether a tap is part of a check, by its methods: it is asked at every stage of every call."""
    return hasattr(tap, "absorb")


class Around:
    """A session that hands everything on to another; what it does otherwise, a subclass says."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.replaying = session.replaying

    def __call__(self, name: str, value: jax.Array) -> jax.Array:
        return self._session(name, value)

    def goldens(self, stage: str) -> Goldens:
        return self._session.goldens(stage)

    def expect(self, stage: str) -> None:
        """Have ready what a stage's taps will be compared with, where the session can read ahead."""
        expect = getattr(self._session, "expect", None)
        if expect is not None:
            expect(stage)

    def judge_by(self, rounding: Mapping[str, str]) -> None:
        self._session.judge_by(rounding)

    def absorb(self, stage: str, recorded: Mapping[str, jax.Array | np.ndarray]) -> None:
        self._session.absorb(stage, recorded)


class TracedTap:
    """The tap inside a traced function: it collects values, and selects the golden where replaying.

    Both modes are one compiled function: `replaying` is an argument of it, not part of its structure. A golden
    that is None never takes a value's place.
    """

    def __init__(
        self, goldens: Mapping[str, jax.Array | None], replaying: jax.Array, known: frozenset[str]
    ) -> None:
        self.goldens = goldens
        self._replaying = replaying
        self._known = known
        self.recorded: dict[str, jax.Array] = {}

    def __call__(self, name: str, value: jax.Array) -> jax.Array:
        if name in self.recorded:
            raise fired_twice(name)
        if name in self.goldens or name not in self._known:
            self.recorded[name] = value  # one that is invented is reported as `extra` by the session
        golden = self.goldens.get(name)
        if golden is None:
            return value
        return jnp.where(self._replaying, handed_on(name, golden, value), pinned(name, golden, value))


def is_asked(tap: TapFunction, kind: str) -> bool:
    """Whether a golden has this kind of tap here, where that can be known: in a compiled function that is checked.

    Of taps that not every golden has, and that are computed for nothing else.
    """
    return isinstance(tap, TracedTap) and kind in tap.goldens


def handed_on(name: str, golden: jax.Array | np.ndarray, value: jax.Array) -> jax.Array:
    """What replay goes on with: the golden, and the port's own value wherever the golden is NaN (not recorded).

    A cache may be longer than what is recorded of it, or shorter while it grows, and so may the keys of `probs`;
    any other difference in shape leaves the value as it is, for the session to report.
    """
    axes = GROWING_AXES.get(kind_of(name), ())
    grown = len(golden.shape) == len(value.shape) and all(
        a == b or axis in axes for axis, (a, b) in enumerate(zip(golden.shape, value.shape, strict=True))
    )
    if not grown:
        return value
    if isinstance(value, Tracer):
        fitted = laid_out(_fitted(jnp, jnp.asarray(golden), value.shape), value)
        return jnp.where(jnp.isnan(fitted), value, fitted.astype(value.dtype))
    # Outside a trace five small programs for every tap would take most of a check's time.
    here = _fitted(np, np.asarray(golden), value.shape).astype(value.dtype)
    replaced = np.where(np.isnan(here), whole(value), here)
    placed = isinstance(value, jax.Array) and value.committed
    return jax.device_put(replaced, value.sharding) if placed else jnp.asarray(replaced)


def pinned(name: str, golden: jax.Array | np.ndarray, value: jax.Array) -> jax.Array:
    """What a port goes on with on its own values: the golden's weights of experts, of tokens that go to others."""
    if kind_of(name) not in PINNED or golden.shape != value.shape:
        return value
    if isinstance(value, Tracer):
        theirs = laid_out(jnp.asarray(golden), value)
        changed = ((theirs != 0) != (value != 0)).any(axis=-1, keepdims=True)
        return handed_on(name, jnp.where(changed, theirs, jnp.full_like(theirs, jnp.nan)), value)
    here = np.asarray(golden)
    differs = ((here != 0) != (whole(value) != 0)).any(axis=-1, keepdims=True) & ~np.isnan(here)
    return handed_on(name, np.where(differs, here, np.full_like(here, np.nan)), value) if differs.any() else value


def going_on(name: str, golden: np.ndarray | None, value: jax.Array, replaying: bool) -> jax.Array:
    """What a port goes on with outside a trace; `golden` is None where there is none for this tap."""
    if golden is None:
        return value
    return (handed_on if replaying else pinned)(name, golden, value)


def whole(value: jax.Array | np.ndarray) -> np.ndarray:
    """A value as one array of this process. Where several processes have its parts, all of them have to ask."""
    shared = isinstance(value, jax.Array) and not (value.is_fully_addressable or value.is_fully_replicated)
    return np.asarray(multihost_utils.process_allgather(value, tiled=True) if shared else value)


def laid_out(replacing: jax.Array, value: jax.Array) -> jax.Array:
    """An array in the layout of one that it replaces inside a trace, where the layout is part of its type.

    That is so on a mesh with explicit axes. Elsewhere the compiler decides, for both of them together: the program
    selects one or the other.
    """
    return jax.sharding.reshard(replacing, jax.typeof(value).sharding) if is_explicit(value) else replacing


def is_explicit(value: jax.Array) -> bool:
    """Whether the layout of a traced value is part of its type."""
    return AxisType.Explicit in jax.typeof(value).sharding.mesh.axis_types


def _fitted(xp: Any, golden: Any, shape: tuple[int, ...]) -> Any:
    """The golden cut to a shape, with NaN where it is too short. `xp` is numpy or its JAX twin."""
    fitted = golden[tuple(slice(size) for size in shape)]
    missing = [(0, size - have) for size, have in zip(shape, fitted.shape, strict=True)]
    return xp.pad(fitted, missing, constant_values=np.nan) if any(added for _, added in missing) else fitted


class Tapped:
    """A jitted `function(tap, *args)` whose taps work in a check and cost nothing outside one.

    One compilation per shape serves all stages that share the function (all layers, say) and both modes.

    Args:
        function: called as `function(tap, *args)`; it taps by kind (`q_rope`), without the stage's name.
        kinds: the kinds it may tap. A tap that is not in the golden is then not computed for nothing.
        options: of the compiler (`jax.jit`'s `compiler_options`).
    """

    def __init__(
        self,
        function: Callable[..., Any],
        kinds: frozenset[str],
        options: Mapping[str, bool | int] | None = None,
    ) -> None:
        self._function, self._kinds = function, kinds
        self._options = None if options is None else dict(options)

    @functools.cached_property
    def _checked(self) -> Any:
        def traced(
            goldens: Mapping[str, jax.Array | None], replaying: jax.Array, *args: Any
        ) -> tuple[Any, dict[str, jax.Array]]:
            tap = TracedTap(goldens, replaying, self._kinds - {"logits"})  # from here they would be tapped twice
            result = self._function(tap, *args)
            return result, tap.recorded

        return jax.jit(traced, compiler_options=self._options)

    @functools.cached_property
    def _plain(self) -> Any:
        return jax.jit(lambda *args: self._function(no_tap, *args), compiler_options=self._options)

    def __call__(self, tap: TapFunction, stage: str, *args: Any) -> Any:
        """Run it as the given stage (`layers.3`, or `` outside the layers)."""
        if tap is no_tap:
            return self._plain(*args)
        if not is_session(tap):
            return self._function(lambda kind, value: tap(name_of(stage, kind), value), *args)
        goldens: dict[str, Any] = dict(tap.goldens(stage))
        if not tap.replaying:
            # Where no call of a run is replayed, its program selects nothing, and is compiled sooner.
            alone = getattr(tap, "alone", False)
            for kind in goldens.keys() - PINNED:
                goldens[kind] = None if alone else _unread(goldens[kind].shape, goldens[kind].dtype)
        result, recorded = self._checked(goldens, np.bool_(tap.replaying), *args)
        tap.absorb(stage, recorded)
        return result


@functools.lru_cache(maxsize=16)
def _unread(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | jax.Array:
    """What stands for a golden that nothing is replaced by; where there is one device, it is there already."""
    zeros = np.zeros(shape, dtype)
    return zeros if jax.device_count() > 1 else jax.device_put(zeros)


def refuse_tracer(name: str, value: object) -> None:
    """A session's tap cannot see a value that only exists while JAX traces.

    Raises:
        PortError: the tap was called inside the port's own `jax.jit`.
    """
    if isinstance(value, Tracer):
        problem = "a tap was called inside the port's own jax.jit, where its value cannot be handed over"
        hint = "jit the function with harness.run.tapping.Tapped, which carries taps in and out"
        raise PortError(problem, name, hint=hint)


def fired_twice(name: str) -> PortError:
    return PortError(
        "the port tapped one name twice in one forward pass",
        where=name,
        expected="every tap once",
        hint="give each intermediate the name that harness/taps.py has for it; `logits` is tapped by the "
        "harness itself, from what forward returns",
    )
