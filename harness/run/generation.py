"""Lets a port write on by itself, token by token, until it writes another token than the reference did.

Its choices of experts are pinned, and nothing is compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from harness.golden import CaseEntry, statistic
from harness.layout import GENERATED_PRECISIONS
from harness.logits import Continuation, agreement, first_mismatch
from harness.metrics import UNIT_ROUNDOFF
from harness.run.choices import pins
from harness.run.comparing import Judgement
from harness.run.contained import blaming_the_port
from harness.run.port import Declarations
from harness.run.precision import jax_dtype
from harness.run.session import CallSession, CaseSession
from harness.run.source import GoldenSource
from harness.run.tapping import TapFunction, no_tap, whole
from harness.store import Golden
from harness.tolerances import limit


def continue_greedily(
    port: Any,
    golden: Golden,
    entry: CaseEntry,
    precision: str,
    tap_of: Callable[[slice], TapFunction] = lambda _: no_tap,
) -> Continuation:
    """Generate after the case's text, with the port's own cache and its own tokens.

    Args:
        port: one with `init_cache`, loaded at the precision, which is in force.
        tap_of: the tap of a call, by which of the case's tokens it is given.

    Raises:
        PortError: the port raises.
    """
    reference = golden.generated(entry.name, "float64", "tokens")[0].tolist()
    written = _write(port, golden, entry, precision, reference, tap_of)
    agreed = agreement(written, reference)
    pytorch = None
    if precision in GENERATED_PRECISIONS:
        pytorch = agreement(golden.generated(entry.name, precision, "tokens")[0].tolist(), reference)
    if agreed == len(reference):
        return Continuation(entry.name, precision, len(reference), agreed, pytorch)
    position = entry.shape[1] - len(reference) + agreed
    logits = golden.tap(entry.name, "logits")[0, position]
    noise = float(UNIT_ROUNDOFF[precision] * np.abs(logits).max())
    if precision in golden.manifest.precisions:
        floors = golden.noise(entry.name, precision, "forward")[entry.taps.index("logits")]
        noise = max(noise, float(floors[statistic("max"), 0, position]))
    ids = golden.top(entry.name)["ids"][0, position] if entry.top else None
    mismatch = first_mismatch(position, reference[agreed], written[agreed], logits, noise, ids)
    return Continuation(entry.name, precision, len(reference), agreed, pytorch, mismatch)


def _write(
    port: Any,
    golden: Golden,
    entry: CaseEntry,
    precision: str,
    reference: list[int],
    tap_of: Callable[[slice], TapFunction],
) -> list[int]:
    """The port's tokens, up to the first that the reference did not write."""
    case = golden.case(entry.name)
    new = case.input_ids[:, : entry.shape[1] - len(reference) + 1]
    written: list[int] = []
    with blaming_the_port("generation"):
        cache = port.init_cache(1, case.length, jax_dtype(precision))
        while len(written) < len(reference) and written == reference[: len(written)]:
            filled = case.length - len(reference) + 1 + len(written)
            positions = np.arange(filled - new.shape[1], filled, dtype=np.int32)[None]
            mask = np.arange(case.length)[None] < filled
            arguments = map(jax.device_put, (new.astype(np.int32), positions, mask))
            tap = tap_of(slice(filled - new.shape[1], filled))
            logits, cache = port.forward(*arguments, cache, tap)
            written.append(int(whole(logits[0, -1]).astype(np.float64).argmax()))
            new = np.asarray([written[-1:]])
    return written


class Pinning(CaseSession):
    """A case whose values nobody takes; its goldens are those of forward."""

    def take(self, name: str, value: jax.Array | np.ndarray, call: int = 0) -> None:
        """Nothing is compared."""


def pinned_call(source: GoldenSource, case: CaseEntry, declared: Declarations, span: slice) -> TapFunction:
    """The tap of one call, of the tokens of a case that it is given; none where nothing is pinned."""
    if not pins(source, declared):
        return no_tap
    session = Pinning(source, case, "forward", Judgement(limit(source.precision), declared))
    return CallSession(session, 0, span)
