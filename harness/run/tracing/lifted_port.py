"""Any port that can be traced, computing in float64 what it hard-codes in narrower floats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend.core import Jaxpr
from jaxtyping import Array

from harness.architecture import Config, architecture_of
from harness.families.graph import taps_of
from harness.run.port import Call, Port
from harness.run.tapping import TapFunction
from harness.run.tracing.mark import mark
from harness.run.tracing.program import Ids, Logits, Mask, Program, Source
from harness.run.tracing.steps import Steps


class LiftedPort:
    """A port whose `forward` is traced with marks for taps, and evaluated in float64.

    Its declarations are those of the port. A port that lifts by itself (`harness.run.adapters`) stays as it is.
    """

    def __init__(self, port: Port, config: Config) -> None:
        self.without = getattr(port, "without", ())
        self.recorded_only = getattr(port, "recorded_only", ())
        self.dtypes = getattr(port, "dtypes", {})
        self.cannot = getattr(port, "cannot", ())
        self.positions_from_pads = getattr(port, "positions_from_pads", ())

        def step(input_ids: Ids, positions: Ids, mask: Mask, cache: None) -> tuple[Logits, None, dict[str, Array]]:
            return port.forward(input_ids, positions, mask, None, mark)[0], None, {}

        self._steps = Steps(Program(Source(taps_of(architecture_of(config))), lift=True), step)

    @property
    def notes(self) -> tuple[str, ...]:
        return self._steps.notes

    def programs(self, calls: Sequence[Call]) -> list[Jaxpr]:
        """What was run for such calls in a check (`harness.run.port`)."""
        return self._steps.ran(calls)

    def forward(
        self, input_ids: Ids, positions: Ids, mask: Mask, cache: Any, tap: TapFunction
    ) -> tuple[Logits, None]:
        """The port contract, for whole prompts."""
        return self._steps(input_ids, positions, mask, None, tap)[0], None
