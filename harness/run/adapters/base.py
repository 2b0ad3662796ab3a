"""What ports of unedited models have in common: a table of taps, a traced program, float64 by lifting."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import jax.numpy as jnp

from harness.architecture import Architecture, Config, architecture_of
from harness.errors import PortError
from harness.families.graph import taps_of
from harness.run.adapters.eager import Eager
from harness.run.adapters.layout import adaptation
from harness.run.adapters.places import Places
from harness.run.adapters.table import Row, To, fixed_sizes, rows
from harness.run.padding import pad
from harness.run.port import Call
from harness.run.tapping import TapFunction
from harness.run.tracing.program import Ids, Logits, Mask, Program, Source, Traced
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
        eager: the model cannot be traced, and is run operation by operation (`eager.py`).

    Args:
        config: the checkpoint's, as `load` was given it.
        dtype: of the check. In float64 the model's narrower floats are lifted.
    """

    taps: ClassVar[Mapping[str, str | To]] = {}
    dtypes: ClassVar[Mapping[str, str]] = {}
    recorded_only: ClassVar[tuple[str, ...]] = ()
    pads: ClassVar[bool] = False
    eager: ClassVar[bool] = False
    watches: ClassVar[bool] = False  # paths are keys of what the model returns, and not places that are called
    lifts: ClassVar[bool] = True  # float64 is lifted here already

    def __init__(self, config: Config, dtype: Any) -> None:
        arch = architecture_of(config)
        table = rows(self.taps, arch)
        self.places = Places(table)
        self.rows = self.places.rows
        covered = {row.kind for row in table} | {"logits"} | CACHE_KINDS  # adapted ports have no cache
        self.without = tuple(dict.fromkeys(tap.kind for tap in taps_of(arch) if tap.kind not in covered))
        source = Source(
            model=self._eager_model if self.eager else self._traced_model,
            taps=taps_of(arch),
            adaptations=_adaptations(table, arch),
            expected=frozenset(row.tap for row in table),
            recorded_only=frozenset(self.recorded_only),
        )
        self._program: Program | Eager = (
            Eager(source, self.places.wanted(self.watches), arch.layers, self.places.never)
            if self.eager
            else Program(source, lift=jnp.dtype(dtype) == jnp.float64)
        )

    def forward(
        self, input_ids: Ids, positions: Ids, mask: Mask, cache: Any, tap: TapFunction
    ) -> tuple[Logits, None]:
        """The port contract (`harness.run.port`).

        Raises:
            PortError: a cache, which adapted ports do not have.
        """
        if cache is not None:
            raise PortError("an adapted port has no KV cache", where="cache", hint="pass None: whole prompts only")
        call = Call(input_ids, positions, mask, None, tap)
        padded = pad(call) if self.pads and not self.eager else call
        with self.context():
            logits = self._program(
                padded.input_ids, padded.positions, padded.mask, self.places.without_rest(padded.tap)
            )
        return logits[:, : input_ids.shape[1]], None

    def context(self) -> AbstractContextManager[Any]:
        """What the model is traced and run in: a mesh (`on_mesh`), rules for the names of axes, and the like."""
        return nullcontext()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the report has to say about how the port was run."""
        return self._program.notes

    def _traced_model(self, *arguments: Any) -> Any:
        """The model, while it is traced, with every mark named by its tap."""
        return self.places.traced(self._model, arguments, self.watches)

    def _eager_model(self, *arguments: Any) -> Any:
        """The model as it stands, its functions replaced."""
        with self.places.replaced():
            return self._model(*arguments)

    def _model(self, input_ids: Ids, positions: Ids, mask: Mask) -> Traced:
        """Run the model once, while it is traced: mark its values, or return them."""
        raise NotImplementedError


def _adaptations(found: tuple[Row, ...], arch: Architecture) -> dict[str, Any]:
    by_kind, fixed = {tap.kind: tap for tap in taps_of(arch)}, fixed_sizes(arch)
    return {row.kind: adaptation(row.layout, by_kind[row.kind], fixed) for row in found if row.layout is not None}
