"""The values of a flat program, computed when they are asked for; golden ones in the place of some."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from harness.run.proposing.flat import Flat, Step
from harness.run.tracing.evaluate import Evaluator, Native

KEPT_BYTES = 2**22  # larger ones are computed anew: weights that are transposed, widened

Put = tuple[str, str | None]  # a tap, in a layout


class Values:
    """Values by variable.

    Args:
        golden: of a tap, in a layout and a shape.

    Attributes:
        put: which variables hold a golden value. What is computed from them comes from it.
        edges: which steps alone read one, by number and variable.
    """

    def __init__(
        self, flat: Flat, arithmetic: Native, golden: Callable[[str, str | None, tuple[int, ...]], np.ndarray]
    ) -> None:
        self._flat, self._arithmetic, self._golden = flat, arithmetic, golden
        self._evaluate = Evaluator(lambda _, value: value, arithmetic)
        self._readers = flat.readers()
        self._kept: dict[int, Any] = {}
        self.put: dict[int, Put] = {}
        self.edges: dict[tuple[int, int], Put] = {}
        self._like: dict[int, tuple[Any, Any]] = {}  # dtype and sharding of what the model makes there

    def __getitem__(self, variable: int) -> Any:
        """What goes on from a variable: the golden, where one is put there."""
        waiting = [variable]
        while waiting:
            needed = waiting[-1]
            if self._is_there(needed):
                waiting.pop()
                continue
            step = self._flat.step_of(needed)
            lacking = [x for x in step.inputs if not self._is_there(x)]
            if lacking:
                waiting += lacking
                continue
            self._compute(step)
        return self._get(variable)

    def own(self, at: int) -> list[Any]:
        """What a step makes of the values that go on to it, whatever is put in the place of that."""
        return self._outputs(self._flat.steps[at], [self._read(at, x) for x in self._flat.steps[at].inputs])

    def _read(self, at: int, variable: int) -> Any:
        edge = self.edges.get((at, variable))
        return self[variable] if edge is None else self._as(variable, edge)

    def keep(self, step: Step, values: list[Any]) -> None:
        """Remember what a step makes."""
        for variable, value in zip(step.outputs, values, strict=True):
            self._kept[variable] = value

    def forget(self, step: Step) -> None:
        """What a step makes is computed anew where it is asked for."""
        for variable in step.outputs:
            self._kept.pop(variable, None)

    def forget_large(self, step: Step) -> None:
        """The same of what a step has read, where it takes much memory and can be had again."""
        for variable in step.inputs:
            if getattr(self._kept.get(variable), "nbytes", 0) > KEPT_BYTES:
                del self._kept[variable]

    def tried(
        self,
        put: Mapping[int, Put],
        edges: Mapping[tuple[int, int], Put],
        until: int,
        through: Collection[str] = (),
    ) -> Iterator[tuple[int, Any]]:
        """What changes with golden values in some more places, in the order of the program.

        Args:
            until: the step after the last one that is looked at.
            through: taps whose goldens do not go on in that.
        """
        changed: dict[int, Any] = {variable: self._as(variable, where) for variable, where in put.items()}
        own = {place: self._as(place[1], where) for place, where in edges.items()}
        steps = {at for variable in put for at in self._readers.get(variable, ())} | {at for at, _ in edges}
        while steps:
            at = min(steps)
            steps.discard(at)
            if at >= until:
                return
            step = self._flat.steps[at]
            here = {x: own[at, x] for x in step.inputs if (at, x) in own}
            operands = [
                here[x] if x in here else changed[x] if x in changed else self._read(at, x) for x in step.inputs
            ]
            for variable, value in zip(step.outputs, self._outputs(step, operands), strict=True):
                if variable in changed:
                    continue
                yield variable, value
                if variable in self.put and self.put[variable][0] not in through:  # whatever comes in
                    continue
                changed[variable] = value
                steps.update(self._readers.get(variable, ()))

    def _is_there(self, variable: int) -> bool:
        return variable in self.put or variable in self._kept or variable in self._flat.given

    def _get(self, variable: int) -> Any:
        if variable in self.put:
            return self._as(variable, self.put[variable])
        return self._kept[variable] if variable in self._kept else self._flat.given[variable]

    def _as(self, variable: int, put: Put) -> Any:
        dtype, sharding = self._like[variable]
        return jax.device_put(self._golden(*put, self._flat.shapes[variable][0]).astype(dtype), sharding)

    def _compute(self, step: Step) -> None:
        at = self._flat.made_at[step.outputs[0]]
        self.keep(step, self._outputs(step, [self._read(at, variable) for variable in step.inputs]))

    def _outputs(self, step: Step, operands: list[Any]) -> list[Any]:
        if step.equation is not None:
            outputs = self._evaluate.equation(step.equation, operands)
        elif step.row is not None:
            outputs = [self._arithmetic.row(operands[0], step.row)]
        else:
            outputs = [self._arithmetic.stack(operands)]
        for variable, value in zip(step.outputs, outputs, strict=True):
            if variable in self._flat.shapes:
                self._like[variable] = value.dtype, value.sharding
        return outputs
