"""A port that breaks its contract: where nothing could be compared, the answer is neither match nor diverged."""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import PortError
from harness.report.document import Report
from harness.results import TapResult
from harness.taps import kind_of
from harness.verdict import BROKEN, breaks_contract, was_compared


def broken_contract(report: Report) -> PortError | None:
    """The error to raise where nothing, or not every tap, could be compared (`BROKEN`); else None."""
    if not report.results:
        return nothing_compared(report)
    broken = [result for result in report.results if breaks_contract(result)]
    if not broken:
        return None
    first = broken[0]
    reasons = [breach(result) for result in broken]
    kinds = ", ".join(dict.fromkeys(reasons))
    return PortError(
        f"{len(broken)} taps could not be compared ({kinds})",
        where=f"{first.tap} in case {first.case}, {first.precision}, {first.mode}: {reasons[0]}",
        expected=first.expected or "finite values",
        found=first.found or "NaN or infinity",
        hint=_hint(broken),
    )


def breach(result: TapResult) -> str:
    """What is wrong with a tap itself, whatever the verdict on its values."""
    return result.verdict if result.verdict in BROKEN else "dtype"


def _hint(broken: Sequence[TapResult]) -> str:
    first = broken[0]
    if breach(first) == "dtype" and first.precision == "float64":
        return "lift the float32 that is hard-coded in the port: --lift"
    wider = {kind_of(r.tap): r.found for r in broken if breach(r) == "dtype" and was_compared(r)}
    if breach(first) == "dtype" and wider:
        declared = ", ".join(f'"{kind}": "{dtype}"' for kind, dtype in wider.items())
        return (
            f"where that is by design the port says so: dtypes = {{{declared}}}; its values are compared already"
        )
    return "mend this in the port first; the report above says where it begins"


def nothing_compared(report: Report) -> PortError:
    """Neither match nor diverged: the port leaves nothing to be compared."""
    return PortError(
        "nothing was compared",
        where=report.port,
        expected="at least one comparison",
        found="; ".join(report.not_covered) or "no results",
        hint="the port declares too much as `without` or `cannot`, or too little was asked for (--case, --mode)",
    )
