"""What ports of unedited models have in common: a table of taps, a traced program, float64 by lifting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp

from harness.architecture import Architecture, Config, architecture_of
from harness.errors import PortError
from harness.families.graph import taps_of
from harness.run.adapters.layout import adaptation
from harness.run.adapters.table import Row, To, rows
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

    Args:
        config: the checkpoint's, as `load` was given it.
        dtype: of the check. In float64 the model's narrower floats are lifted.
    """

    taps: ClassVar[Mapping[str, str | To]] = {}
    dtypes: ClassVar[Mapping[str, str]] = {}
    recorded_only: ClassVar[tuple[str, ...]] = ()
    pads: ClassVar[bool] = False
    lifts: ClassVar[bool] = True  # float64 is lifted here already

    def __init__(self, config: Config, dtype: Any) -> None:
        arch = architecture_of(config)
        self.rows = rows(self.taps, arch)
        covered = {row.kind for row in self.rows} | {"logits"} | CACHE_KINDS  # adapted ports have no cache
        self.without = tuple(dict.fromkeys(tap.kind for tap in taps_of(arch) if tap.kind not in covered))
        self._program = Program(
            Source(
                model=self._model,
                taps=taps_of(arch),
                adaptations=_adaptations(self.rows, arch),
                expected=frozenset(row.tap for row in self.rows),
                recorded_only=frozenset(self.recorded_only),
            ),
            lift=jnp.dtype(dtype) == jnp.float64,
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
        padded = pad(call) if self.pads else call
        logits = self._program(padded.input_ids, padded.positions, padded.mask, padded.tap)
        return logits[:, : input_ids.shape[1]], None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the report has to say about how the port was run."""
        return self._program.notes

    def _model(self, input_ids: Ids, positions: Ids, mask: Mask) -> Traced:
        """Run the model once, while it is traced: mark its values, or return them."""
        raise NotImplementedError


def _adaptations(found: tuple[Row, ...], arch: Architecture) -> dict[str, Any]:
    by_kind = {tap.kind: tap for tap in taps_of(arch)}
    varying = ("batch", "position", "slot", "key")
    fixed = {name: size for name, size in arch.sizes(1, 1).items() if name not in varying}
    return {row.kind: adaptation(row.layout, by_kind[row.kind], fixed) for row in found if row.layout is not None}
