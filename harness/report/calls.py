"""What the calls of a case rule in or out: in which of them it starts, and whether the cache itself is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.results import TapResult
from harness.taps import CACHE_KINDS, kind_of


def call_evidence(results: Sequence[TapResult]) -> Iterable[str]:
    """At most one sentence, from results of one kind of tap in cases of several calls.

    A cache that is wrong is told apart from an operation that is right in the prefill and wrong in a later call;
    in replay both see a golden past.
    """
    found = [r for r in results if r.calls and r.since_call is not None]
    if not found:
        return
    first = min(found, key=lambda r: r.since_call or 0)
    name, where = call_name(first.calls, first.since_call or 0), f"case {first.case}"
    if kind_of(first.tap) in CACHE_KINDS:
        slot = first.worst.index.get("slot") if first.worst else None
        yield f"wrong in the cache itself, first after {name} ({where}; worst at slot {slot})"
    elif first.since_call:
        yield f"right in every call before, wrong only from {name} on ({where})"


def call_name(calls: Sequence[int], call: int) -> str:
    """`the prefill`, `chunk 2 of the prefill`, `step 3`: steps are the single tokens at the end."""
    steps = next((n for n, length in enumerate(reversed(calls)) if length > 1), len(calls) - 1)
    chunks = len(calls) - steps
    if call >= chunks:
        return f"step {call - chunks + 1}"
    return "the prefill" if chunks == 1 else f"chunk {call + 1} of the prefill"
