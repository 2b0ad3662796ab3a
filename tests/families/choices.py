"""A port that hands over the golden's values, with something changed: what judges choices, and no arithmetic."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from harness.run.check import check
from harness.run.precision import round_to
from harness.run.question import Question
from harness.store import open_golden


class Canned:
    """It computes nothing, and keeps what its taps are given to go on with.

    Args:
        change: `change(name, value, case) -> value`, of whatever it hands over.
    """

    def __init__(self, golden, dtype, change, **declared):
        self.golden, self.dtype, self.change = golden, jnp.dtype(dtype).name, change
        self.went_on = {}
        for name, value in declared.items():
            setattr(self, name, value)

    def forward(self, input_ids, positions, mask, cache, tap):
        ids = np.asarray(input_ids)
        entry = next(
            one
            for one in self.golden.manifest.cases
            if not one.cached and np.array_equal(self.golden.case(one.name).input_ids, ids)
        )
        found = {}
        for name in entry.taps:
            value = round_to(self.golden.tap(entry.name, name), self.dtype)
            found[name] = jnp.asarray(self.change(name, np.array(value), entry.name))
            if name != "logits":
                self.went_on[entry.name, name, tap.replaying] = np.asarray(tap(name, found[name]))
        return found["logits"], None


def unchanged(name, value, case):
    return value


def checked(
    golden_path, checkpoint, change=unchanged, precision="bfloat16", modes=("forward", "replay"), **declared
):
    """The report on such a port, and the port. What it does not declare to hand over, it does not."""
    made = []
    with open_golden(golden_path) as golden:

        def load(directory, config, dtype):
            made.append(Canned(golden, dtype, change, cannot=("decode",), **declared))
            return made[-1]

        question = Question(precisions=(precision,), modes=modes, cases=declared.pop("cases", ()))
        return check(golden_path, checkpoint, "my_port:Port", question, load=load), made[0]
