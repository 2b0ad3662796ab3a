"""What ways of running the same tokens, and the calls of a case, say about each other: which is to blame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from harness.report.document import Report
from harness.report.summary import UNCOMPARED, grouped
from harness.results import TapResult, is_wrong
from harness.taps import CACHE_KINDS, kind_of

OWN_PREFILL = "the port's own prefill of the same tokens"
Cells = Mapping[tuple[str, str, str], Sequence[TapResult]]  # by case, precision, mode; taps in data-flow order


def agreement(report: Report) -> tuple[str, ...]:
    """A sentence for all cases and precisions of which the same can be said; none where nothing is wrong."""
    cells = _cells(report)
    said: dict[tuple[str, str], list[str]] = {}
    for case, precision, mode in cells:
        sentence = None
        if mode == "prefill":
            sentence = _of_prefill(cells, case, precision)
        elif mode == "alone":
            sentence = _of_rows(cells, case, precision)
        if sentence is not None:
            said.setdefault((case, sentence), []).append(precision)
    cases: dict[tuple[str, str], list[str]] = {}
    for (case, sentence), precisions in said.items():
        cases.setdefault((sentence, ", ".join(precisions)), []).append(case)
    return tuple(f"{', '.join(names)}: {sentence} ({where})" for (sentence, where), names in cases.items())


def _cells(report: Report) -> Cells:
    order = {name: place for place, name in enumerate(report.taps)}
    compared = (r for r in report.results if r.verdict not in UNCOMPARED)
    ordered = sorted(compared, key=lambda r: order.get(r.tap, len(order)))
    return grouped(ordered, lambda r: (r.case, r.precision, r.mode))


def _of_prefill(cells: Cells, case: str, precision: str) -> str | None:
    """Whether the calls through a cache do what the port does without one."""
    differs = _wrong(cells[case, precision, "prefill"])
    forward = cells.get((case, precision, "forward"), ())
    if not differs:
        return f"agrees with {OWN_PREFILL}: the cache path is not to blame" if _wrong(forward) else None
    start = min((r.since_call for r in differs if r.since_call is not None), default=0)
    since = f" from {call_name(differs[0].calls, start)} on" if start else ""
    if not forward:
        blame = "one of the two is wrong"
    elif _wrong(forward):
        blame = "the cache path is to blame"
    else:
        blame = "the calls through the cache match the golden, so it is the prefill without one that is wrong"
    return f"differs from {OWN_PREFILL}{since}, first at {differs[0].tap}: {blame}"


def _of_rows(cells: Cells, case: str, precision: str) -> str | None:
    """Whether the rows of a batch are what their prompts are alone."""
    results = cells[case, precision, "alone"]
    differs = _wrong(results)
    if not differs:
        return None
    prompts = {row: name for r in results for row, name in enumerate(r.against) if name is not None}
    wrong = sorted({row for r in differs for row in r.wrong_rows})
    right = [row for row in prompts if row not in wrong]
    alone = [cells.get((prompts[row], precision, "forward"), ()) for row in wrong]
    if not all(alone):
        blame = ""
    elif not any(map(_wrong, alone)):
        blame = ": alone the port gets them right, so the padding or the batch is to blame"
    elif all(map(_wrong, alone)):
        blame = ": alone the port gets them wrong too, so the batch is not to blame"
    else:
        blame = ": alone the port gets some of them wrong too"
    agrees = f"; {_rows(right, prompts)} agrees" if len(right) == 1 else ""
    agrees = f"; {_rows(right, prompts)} agree" if len(right) > 1 else agrees
    verb = "differs from its prompt" if len(wrong) == 1 else "differ from their prompts"
    return f"{_rows(wrong, prompts)} {verb} recorded alone, first at {differs[0].tap}{agrees}{blame}"


def _wrong(results: Sequence[TapResult]) -> list[TapResult]:
    return [r for r in results if is_wrong(r.verdict)]


def _rows(rows: Sequence[int], prompts: Mapping[int, str]) -> str:
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(f'{row} ({prompts[row]})' for row in rows)}"


def call_evidence(results: Sequence[TapResult]) -> Iterable[str]:
    """At most one sentence, from results of one kind of tap in cases of several calls.

    A cache that is wrong is told apart from an operation that is right in the prefill and wrong in a later call;
    in replay both see a golden past.
    """
    since = [r for r in results if r.calls and r.since_call is not None]
    if not since:
        return
    first = min(since, key=lambda r: r.since_call or 0)
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
