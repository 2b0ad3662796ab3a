"""Top-1 agreement is counted over the tokens that were compared: of all rows, without padding."""

from __future__ import annotations

import numpy as np

from harness.along import Scope
from harness.comparison import Place, compare
from harness.report.summary import logit_summary
from harness.taps import Tap
from harness.tolerances import limit

LOGITS = Tap("logits", ("batch", "position", "vocab"), ("final_norm",))


def test_a_padded_batch_has_as_many_positions_as_it_has_tokens():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(3, 4, 5))
    counted = np.asarray([[True] * 4, [False, True, True, True], [False, False, True, True]])
    actual = -truth  # the most likely token is the least likely one
    result = compare(
        Place("batch", "float64", "forward", LOGITS), actual, truth, None, limit("float64"), "float64",
        Scope(counted, np.arange(4)),
    )  # fmt: skip
    found = logit_summary([result, result])
    assert found.positions == 2 * 9
    assert found.flips + found.ties == found.positions
    assert found.agreed == 0
    assert result.logits is not None and result.logits.positions == 9
