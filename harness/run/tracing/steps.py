"""A model call by call, each a function of its input and of its taps: one compilation for every shape of call.

A whole prompt has no cache. In replay the golden is written into the cache that comes in, at the slots of earlier
calls. This call's keys and values are what the model makes of golden values. The cache that comes out is read and
compared.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr
from jaxtyping import Array, Bool, Float, Int

from harness.errors import PortError, shortened
from harness.run.cache import first_slot
from harness.run.port import Call
from harness.run.tapping import Session, TapFunction, TracedTap, fired_twice, handed_on, whole
from harness.run.tracing.evaluate import Evaluator
from harness.run.tracing.lift import WIDE
from harness.run.tracing.program import Ids, Logits, Program, liftable
from harness.run.tracing.rounding import rounding
from harness.taps import CACHED, kind_of

Contents = Mapping[str, Float[Array, "batch slot ..."]]
Filled = Bool[Array, "batch slot"]
Step = Callable[[Ids, Ids, Filled, Any], tuple[Logits, Any, Mapping[str, Array]]]
# What is written into a cache and read again may have been rounded, as a cache of 8 bits does it, but is the same
# value: wrong by less than this, in units of the array's own rms.
ROUNDED = 0.5


@dataclass(frozen=True, eq=False)
class Access:
    """How the contents of a cache are had and put, by tap: one is the other's inverse."""

    read: Callable[[Any], Contents] = lambda cache: {}
    write: Callable[[Any, Contents], Any] = lambda cache, values: cache


@dataclass(frozen=True, eq=False)
class _Traced:
    """One shape of call: its compiled function, the model's parameters, and the form of the cache after it."""

    run: Any  # of `jax.jit`
    constants: Sequence[Any]
    after: jax.tree_util.PyTreeDef


class Steps:
    """Runs the calls of a model, on its own or on golden values.

    Args:
        program: it says how, and notes what was lifted.
        step: `step(input_ids, positions, mask, cache) -> (logits, cache, watched)`. It marks values (`mark`) with
            the names of their taps, or returns them in `watched`; `{i}` in a name is the iteration of a scan.
    """

    def __init__(self, program: Program, step: Step, access: Access = Access()) -> None:
        self._program, self._step, self._access = program, step, access
        self._traced: dict[Hashable, _Traced] = {}
        self._dtypes: dict[Hashable, tuple[np.dtype, ...]] = {}
        self._faithful: set[Hashable] = set()
        self._ran: dict[tuple[Any, ...], Jaxpr] = {}

    def like(self, program: Program, step: Step) -> Steps:
        """Steps of the same cache with another program, between which a case may go to and fro."""
        made = Steps(program, step, self._access)
        made._dtypes = self._dtypes
        return made

    @property
    def notes(self) -> tuple[str, ...]:
        """What a report has to say about how they were run."""
        return self._program.notes

    def ran(self, calls: Sequence[Call]) -> list[Jaxpr]:
        """The programs that were run for sessions on such calls; nothing where there is none for one of them."""
        shapes = [(call.input_ids.shape, call.mask.shape) for call in calls]
        by_call = [[made for key, made in self._ran.items() if key[:2] == shape] for shape in shapes]
        return [made for found in by_call for made in found] if all(by_call) else []

    def __call__(
        self, input_ids: Ids, positions: Ids, mask: Filled, cache: Any, tap: TapFunction
    ) -> tuple[Logits, Any]:
        """Logits of one call, and the cache after it; where `tap` is a session, it is given all taps.

        Raises:
            PortError: a tap that the model never makes, or that replay could not replace; a cache with something
                else than arrays in it; `write_cache` returns another form of cache, or what it wrote is not what
                `read_cache` reads.
            CannotLift: an operation that stays narrow.
        """
        leaves, tree = _arrays(cache)
        form = tree, tuple(leaf.shape for leaf in leaves)
        dtypes = tuple(leaf.dtype for leaf in leaves)
        if self._program.lift:
            dtypes = self._dtypes.setdefault(form, dtypes)  # of the model's own; what is lifted is wide
            given = [leaf.astype(WIDE.get(leaf.dtype, leaf.dtype)) for leaf in leaves]
        else:
            given = leaves
        key = (input_ids.shape, mask.shape, form, dtypes)
        if key not in self._traced:
            narrow = [
                leaf if leaf.dtype == dtype else jax.ShapeDtypeStruct(leaf.shape, dtype)
                for leaf, dtype in zip(leaves, dtypes, strict=True)
            ]
            self._traced[key] = self._trace(key, tree, (input_ids, positions, mask, *narrow))
        traced = self._traced[key]
        run = liftable(traced.run) if self._program.lift else traced.run
        checked = isinstance(tap, Session)
        goldens = self._program.goldens(tap) if isinstance(tap, Session) else {}
        replaying = isinstance(tap, Session) and tap.replaying
        arguments = (traced.constants, goldens, np.bool_(replaying), input_ids, positions, mask, *given)
        logits, recorded, after, lost = run(*arguments)
        if checked and replaying and key not in self._faithful:
            shares = {name: float(whole(value)) for name, value in lost.items()}
            _refuse_unfaithful(shares)
            if all(share >= 0 for share in shares.values()):
                self._faithful.add(key)
        if isinstance(tap, Session):
            self._program.hand_over(tap, key, goldens, recorded)
            if key not in self._ran:
                self._ran[key] = traced.run.trace(*arguments).jaxpr.jaxpr  # JAX has kept it
        return logits, jax.tree.unflatten(traced.after, after)

    def _trace(self, key: Hashable, tree: jax.tree_util.PyTreeDef, arguments: Sequence[Any]) -> _Traced:
        after: list[jax.tree_util.PyTreeDef] = []

        def model(ids: Ids, positions: Ids, mask: Filled, *leaves: Array) -> tuple[Any, ...]:
            logits, cache, watched = self._step(ids, positions, mask, jax.tree.unflatten(tree, leaves))
            outputs, form = jax.tree.flatten(cache)
            after[:] = [form]
            return logits, dict(watched), outputs

        closed, (_, watched, outputs) = jax.make_jaxpr(model, return_shape=True)(*arguments)
        names = [None, *sorted(watched)]  # JAX flattens a dict in the order of its keys
        # Keys that are never kept are a bug of the cache, which its contents show.
        self._program.refuse(closed, names, frozenset(CACHED.values() if arguments[3:] else ()))
        self._written(tree, arguments[3:])
        if self._program.lift:
            self._dtypes[after[0], tuple(out.shape for out in outputs)] = tuple(out.dtype for out in outputs)
            self._program.rounding[key] = rounding(closed, names, reading=self._reading(after[0], outputs))
        known = frozenset(tap.name for tap in self._program.source.taps)

        def run(
            constants: Sequence[Any], goldens: Mapping[str, Array], replaying: Array, *given: Array
        ) -> tuple[Logits, dict[str, Array], list[Array], dict[str, Array]]:
            ids, positions, mask, *incoming = given
            first = first_slot(mask, ids.shape[1]) if incoming else jnp.asarray(0)
            leaves, held, lost = self._replayed(tree, incoming, goldens, replaying, first)
            tap = TracedTap({n: golden for n, golden in goldens.items() if n not in held}, replaying, known)
            evaluate = Evaluator(self._program.adapted(tap, ids.shape[0]), self._program.arithmetic())
            returned = evaluate(closed.jaxpr, constants, (ids, positions, mask, *leaves), names)
            outputs = returned[len(names) :]
            recorded = dict(tap.recorded)
            for name, value in self._access.read(jax.tree.unflatten(after[0], outputs)).items():
                if name in recorded:
                    raise fired_twice(name)
                if name in goldens or name not in known:
                    recorded[name] = value
            return returned[0], recorded, outputs, lost

        return _Traced(jax.jit(run), closed.consts, after[0])

    def _replayed(
        self,
        tree: jax.tree_util.PyTreeDef,
        leaves: Sequence[Array],
        goldens: Mapping[str, Array],
        replaying: Array,
        first: Int[Array, ""],
    ) -> tuple[Sequence[Array], frozenset[str], dict[str, Array]]:
        """The cache that a call is given: in replay the golden, at the slots before its first token.

        Returns:
            Its arrays; the names that are in it; by name, how much of the golden is lost in it: the largest
            difference to what is read again, over the array's rms, and -1 where nothing is written yet.
        """
        cache = jax.tree.unflatten(tree, leaves)
        own = self._access.read(cache)
        held, never = frozenset(own), self._program.source.recorded_only
        golden = {
            name: _before(first, handed_on(name, goldens[name], value), value)
            for name, value in own.items()
            if name in goldens and kind_of(name) not in never
        }
        if not golden:
            return leaves, held, {}
        written = self._access.write(cache, {**own, **golden})
        again = self._access.read(written)
        lost = {name: jnp.where(first > 0, _difference(again[name], value), -1) for name, value in golden.items()}
        replaced = jax.tree.leaves(written)
        return [jnp.where(replaying, a, b) for a, b in zip(replaced, leaves, strict=True)], held, lost

    def _written(self, tree: jax.tree_util.PyTreeDef, leaves: Sequence[Any]) -> None:
        """Refuse a port that writes another form of cache than it was given, or reads what has no slots."""

        def through(*leaves: Array) -> Any:
            cache = jax.tree.unflatten(tree, leaves)
            own = self._access.read(cache)
            for name, value in own.items():
                _refuse_without_slots(name, value)
            return self._access.write(cache, own) if own else cache

        written, form = jax.tree.flatten(jax.eval_shape(through, *leaves))
        wrong = [
            f"{new.dtype} {new.shape} for {leaf.dtype} {leaf.shape}"
            for new, leaf in zip(written, leaves, strict=False)
            if (new.shape, new.dtype) != (leaf.shape, leaf.dtype)
        ]
        if form != tree or wrong:
            problem = "write_cache() does not return a cache of the form that it was given"
            expected = tree if form != tree else "arrays of the same shapes and dtypes"
            found = form if form != tree else shortened("; ".join(wrong))
            hint = "replace the contents alone: all else in the cache stays as it is"
            raise PortError(problem, "write_cache", expected, found, hint=hint)

    def _reading(self, tree: jax.tree_util.PyTreeDef, leaves: Sequence[Any]) -> tuple[Any, list[str]]:
        """The reading of a cache as a program, and what it reads."""

        def read(*leaves: Array) -> dict[str, Array]:
            return dict(self._access.read(jax.tree.unflatten(tree, leaves)))

        closed, read_out = jax.make_jaxpr(read, return_shape=True)(*leaves)
        return closed, sorted(read_out)


def _arrays(cache: Any) -> tuple[list[Array], jax.tree_util.PyTreeDef]:
    """The arrays of a cache, of which none is weakly typed: what a Python number becomes is another type later."""
    named, tree = jax.tree_util.tree_flatten_with_path(cache)
    return [_strong(jax.tree_util.keystr(path), leaf) for path, leaf in named], tree


def _strong(path: str, leaf: Any) -> Array:
    if isinstance(leaf, jax.Array) and not jax.typeof(leaf).weak_type:
        return leaf
    try:
        return jnp.asarray(leaf, jnp.result_type(leaf))
    except TypeError:
        problem, expected = "a cache holds something that is no array", "a tree of arrays and numbers"
        hint = "keep it in the port, or register its class with JAX as static data"
        raise PortError(problem, f"cache{path}", expected, type(leaf).__name__, hint=hint) from None


def _refuse_without_slots(name: str, value: Any) -> None:
    if getattr(value, "ndim", 0) < 2:
        problem, expected = "read_cache() does not return arrays with slots", "[batch, slot, kv_head, head_dim]"
        hint = "the names are those of taps, and the values arrays with a row for every slot of the cache"
        raise PortError(problem, name, expected, getattr(value, "shape", type(value).__name__), hint=hint)


def _before(first: Int[Array, ""], golden: Array, own: Array) -> Array:
    """The golden at the slots before a call's first token, and the port's own after."""
    slots = jnp.arange(own.shape[1]).reshape(1, -1, *[1] * (own.ndim - 2))
    return jnp.where(slots < first, golden, own)


def _difference(again: Array, value: Array) -> Array:
    """The largest difference over the rms."""
    wide = value.dtype if value.dtype == jnp.float64 else jnp.float32
    a, b = again.astype(wide), value.astype(wide)
    rms = jnp.sqrt(jnp.mean(jnp.square(b)))
    return jnp.max(jnp.abs(a - b)) / jnp.maximum(rms, jnp.finfo(wide).tiny)


def _refuse_unfaithful(lost: Mapping[str, float]) -> None:
    for name, share in lost.items():
        if not share < ROUNDED:
            problem = (
                "write_cache() does not write what read_cache() reads: replay would go on with something else"
            )
            expected = "read_cache(write_cache(cache, values)) gives the values again"
            found = f"a value that is off by {share:.2g} times the rms of the array"
            hint = "make one the inverse of the other, or declare that the cache is only recorded: "
            hint += f"recorded_only = ({kind_of(name)!r},)"
            raise PortError(problem, name, expected, found, hint=hint)
