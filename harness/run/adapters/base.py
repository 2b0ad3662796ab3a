"""What ports of unedited models have in common: a table of taps, a traced program, float64 by lifting."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar, Self

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr
from jaxtyping import Array

from harness.architecture import Architecture, Config, architecture_of
from harness.errors import PortError
from harness.families.graph import taps_of
from harness.run.adapters.caches import CacheTable, refuse_other_arguments
from harness.run.adapters.layout import adaptation
from harness.run.adapters.places import Places
from harness.run.adapters.table import Row, Table, To, bad, fixed_sizes, rows
from harness.run.padding import pad
from harness.run.port import Call
from harness.run.tapping import TapFunction
from harness.run.tracing.answers import Answered
from harness.run.tracing.program import Ids, Logits, Mask, Program, Source
from harness.run.tracing.steps import Access, Contents, Steps
from harness.taps import CACHE_KINDS

__all__ = ["AdaptedPort", "To"]


class AdaptedPort:
    """A port whose model is traced. Subclass one of its kinds, give it `taps`, and write `load` and `run`.

    Attributes:
        taps: path in the model -> tap (see `table.py`). What is not in it is reported as not covered.
        dtypes: kinds of taps that are wider than the dtype of the check by design.
        recorded_only: kinds that replay cannot replace, since the model does not go on with them.
        pads: prompts may be padded on the right to a few lengths, so that they share compilations. For causal
            models alone, in which no position sees what is to its right.
        cache: path in the model's cache -> tap (see `caches.py`).

    A port with a KV cache also has `init_cache(batch, length, dtype)`, which returns any tree of arrays. Its `run`
    is given the cache as its last argument, None for a whole prompt, and returns (logits, cache). Cases with a
    cache, and generation, are then covered. What is in the cache, `cache` says, or `read_cache` and `write_cache`
    that the port writes itself; without either it is not compared, and in replay it is the port's own.

    Args:
        config: the checkpoint's, as `load` was given it.
        dtype: of the check. In float64 the model's narrower floats are lifted.
    """

    taps: ClassVar[Table] = {}
    dtypes: ClassVar[Mapping[str, str]] = {}
    recorded_only: ClassVar[tuple[str, ...]] = ()
    pads: ClassVar[bool] = False
    watches: ClassVar[bool] = False  # paths are keys of what the model returns, and not places that are called
    cache: ClassVar[Mapping[str, str | To]] = {}
    lifts: ClassVar[bool] = True  # float64 is lifted here already

    def __init__(self, config: Config, dtype: Any) -> None:
        self.arch = arch = architecture_of(config)
        table = rows(self.taps, arch)
        self.places = Places(table)
        self.rows = self.places.rows
        self.has_cache = callable(getattr(self, "init_cache", None))
        self._table = CacheTable(self.cache, arch)
        held = self._held(frozenset(tap.kind for tap in taps_of(arch) if "slot" in tap.dims))
        covered = {row.kind for row in table} | {"logits"} | (held if self.has_cache else CACHE_KINDS)
        hidden = [tap.kind for tap in taps_of(arch) if tap.kind not in covered]
        self.without = tuple(dict.fromkeys([*hidden, *getattr(type(self), "without", ())]))
        self.earlier_only = tuple(sorted(held - {*self.recorded_only, *self.without}))
        self._lift = jnp.dtype(dtype) == jnp.float64
        expected = frozenset(row.tap for row in table)
        self._source = Source(taps_of(arch), _adaptations(table, arch), expected, frozenset(self.recorded_only))
        self._program = Program(self._source, lift=self._lift)
        self._steps = Steps(self._program, self._step, Access(self._contents, self.write_cache))
        self._answered = Answered(self._steps, self._given, self._question)

    def forward(
        self, input_ids: Ids, positions: Ids, mask: Mask, cache: Any, tap: TapFunction
    ) -> tuple[Logits, Any]:
        """The port contract (`harness.run.port`).

        Raises:
            PortError: a cache, of a port that has none.
        """
        if cache is not None and not self.has_cache:
            hint = "write init_cache(batch, length, dtype), or pass None: whole prompts only"
            raise PortError("this adapted port has no KV cache", "cache", hint=hint)
        call = Call(input_ids, positions, mask, cache, tap)
        padded = self._padded(call)
        given = padded.input_ids, padded.positions, padded.mask, padded.cache
        with self.context():
            logits, after = self._answered(*given, tap=self.places.without_rest(padded.tap))
        return logits if padded is call else logits[:, : input_ids.shape[1]], after

    def programs(self, calls: Sequence[Call]) -> list[Jaxpr]:
        """What was run for such calls in a check (`harness.run.port`)."""
        return self._answered.ran(calls if calls[0].cache is not None else [*map(self._padded, calls)])

    def context(self) -> AbstractContextManager[Any]:
        """What the model is traced and run in: a mesh (`on_mesh`), rules for the names of axes, and the like."""
        return nullcontext()

    def read_cache(self, cache: Any) -> Contents:
        """The contents of a cache by tap, [batch, slot, kv_head, head_dim]: by the table, or as you write it."""
        return self._table.read(cache)

    def write_cache(self, cache: Any, values: Contents) -> Any:
        """The cache with other contents: the inverse of `read_cache`."""
        return self._table.write(cache, values)

    def run(self, *arguments: Any, **named: Any) -> Any:
        """Call the model: see the kinds of ports."""
        raise NotImplementedError

    def sub_modules(self) -> Iterable[tuple[str, Any]]:
        """What the model holds, by path."""
        return ()

    def paths(self) -> Iterable[str]:
        """What of the model can be called, as rows have it: sub-modules, and their own methods."""
        return ()

    def marking(self, rows: tuple[Row, ...]) -> Self:
        """The same port, which marks other places of the same model."""
        port = copy.copy(self)
        port.rows = rows
        return port

    @property
    def notes(self) -> tuple[str, ...]:
        """What the report has to say about how the port was run."""
        return self._answered.notes

    def _padded(self, call: Call) -> Call:
        return pad(call) if self.pads and call.cache is None else call

    def _model(self, input_ids: Ids, positions: Ids, mask: Mask, *cache: Any) -> tuple[Any, Mapping[str, Array]]:
        """Run the model once, while it is traced: mark its values, or return them.

        Args:
            cache: nothing, for a port without one.

        Returns:
            What the port's `run` returns: logits, or (logits, cache); and the values, by tap.
        """
        raise NotImplementedError

    def _step(
        self, input_ids: Ids, positions: Ids, mask: Mask, cache: Any, *, answers: Sequence[np.ndarray] = ()
    ) -> tuple[Logits, Any, Mapping[str, Array]]:
        """The model on one call, with every mark named by its tap; without a cache none comes back."""
        given = self._arguments(input_ids, positions, mask, cache)
        returned, watched = self.places.traced(self._model, given, self.watches, answers)
        if not self.has_cache:
            return returned, None, watched
        if not isinstance(returned, tuple) or len(returned) != 2:
            problem = "the run() of a port with a cache does not return (logits, cache)"
            expected = "a tuple of two: logits [batch, position, vocab], cache"
            hint = "return (logits, cache), or leave init_cache out where the model has no cache"
            raise PortError(problem, f"{type(self).__name__}.run", expected, type(returned).__name__, hint=hint)
        return returned[0], None if cache is None else returned[1], watched

    def _given(self, answers: Sequence[np.ndarray]) -> Steps:
        """The calls of a model that looks at values, for what it saw."""
        program = Program(self._source, lift=self._lift)
        return self._steps.like(program, functools.partial(self._step, answers=answers))

    def _question(self, answers: Sequence[np.ndarray]) -> Callable[..., Any]:
        """What computes what it looks at next."""

        def asked(*given: Any) -> Any:
            return self.places.asked(self._model, self._arguments(*given), self.watches, answers), given[-1], {}

        program = Program(replace(self._source, expected=frozenset()), lift=self._lift)
        steps = self._steps.like(program, asked)
        return lambda *arguments: steps(*arguments)[0]

    def _arguments(self, *given: Any) -> tuple[Any, ...]:
        """What the model is given of a call: a model without a cache nothing in its place."""
        return given if self.has_cache else given[:-1]

    def _contents(self, cache: Any) -> Contents:
        return {} if cache is None else self.read_cache(cache)

    def _held(self, kinds: frozenset[str]) -> frozenset[str]:
        """The kinds of taps that are read from the cache.

        Args:
            kinds: those that the architecture has.

        Raises:
            PortError: it is read and not written, or there is none; or `run` does not take what it is given.
        """
        refuse_other_arguments(self, ("cache",) if self.has_cache else ())
        names = ("read_cache", "write_cache")
        own = {name: getattr(type(self), name) is not getattr(AdaptedPort, name) for name in names}
        if self.cache and not self.has_cache:
            problem = "a port has a table of its cache, and no cache"
            raise bad(problem, "cache", "init_cache(batch, length, dtype)", "base")
        if own["read_cache"] != own["write_cache"] and not self.cache and not kinds <= {*self.recorded_only}:
            lacks = "write_cache" if own["read_cache"] else "read_cache"
            raise bad(
                "a port has one of read_cache and write_cache", lacks, "both, each the other's inverse", "base"
            )
        return kinds if own["read_cache"] else self._table.kinds


def _adaptations(table: tuple[Row, ...], arch: Architecture) -> dict[str, Any]:
    by_kind, fixed = {tap.kind: tap for tap in taps_of(arch)}, fixed_sizes(arch)
    return {row.kind: adaptation(row.layout, by_kind[row.kind], fixed) for row in table if row.layout is not None}
