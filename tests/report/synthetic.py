"""A report of the size of a real one: 28 layers, 27 cases, 3 precisions, everything wrong that can be."""

from __future__ import annotations

from dataclasses import replace

from harness.report.document import LimitEntry, Report
from harness.results import Flip, LogitStatistics
from harness.verdict import first_divergence, introduced, overall
from tests.report.samples import REPORT, result
from tests.small_decoder import decoder_taps

PRECISIONS = ("float64", "float32", "bfloat16")
CASES = tuple(f"case-number-{i}" for i in range(27))
WRONG = {"q_rope": "introduced", "probs": "inherited"}
FLIPS = tuple(Flip(i, i, i + 1, 1.0 / (i + 1), 1e-6, tie=False) for i in range(200))
STATISTICS = LogitStatistics(0.1, 0.4, 0.5, 0.5, FLIPS, 0.01, 0.98, 4)


def large(layers: int = 28, positions: int = 512) -> Report:
    """Every case at full depth; the longest has that many positions."""
    taps = {tap.name: tap.inputs for tap in decoder_taps(layers)}
    results = []
    for number, case in enumerate(CASES):
        profile = (1.234567,) * (1 + number * (positions - 1) // (len(CASES) - 1))
        for precision in PRECISIONS:
            for mode in ("forward", "replay"):
                for name in taps:
                    verdict = WRONG.get(name.rpartition(".")[2], "match")
                    multiple = 1.2 if verdict == "match" else 123456.7
                    one = result(
                        name, mode, verdict, multiple, case, profile if verdict == "match" else (multiple,)
                    )
                    logits = STATISTICS if name == "logits" else None
                    results.append(replace(one, precision=precision, logits=logits))
    return replace(
        REPORT,
        taps=taps,
        results=tuple(results),
        verdict=overall(results),
        introduced=introduced(results, list(taps)),
        first_divergence=first_divergence(results, list(taps)),
        limits={name: LimitEntry(4.0, 1.0, 1.0, "measured", 1.3e4) for name in PRECISIONS},
    )
