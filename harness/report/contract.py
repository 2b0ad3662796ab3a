"""A port that breaks its contract: where nothing could be compared, the answer is neither match nor diverged."""

from __future__ import annotations

from harness.errors import PortError
from harness.report.document import Report
from harness.verdict import BROKEN


def broken_contract(report: Report) -> PortError | None:
    """The error to raise where a tap is missing, extra, of another shape or dtype, or not finite; else None."""
    broken = [result for result in report.results if result.verdict in BROKEN]
    if not broken:
        return None
    first = broken[0]
    kinds = ", ".join(dict.fromkeys(result.verdict for result in broken))
    return PortError(
        f"{len(broken)} taps could not be compared ({kinds})",
        where=f"{first.tap} in case {first.case}, {first.precision}, {first.mode}: {first.verdict}",
        expected=first.expected or "finite values",
        found=first.found or "NaN or infinity",
        hint="lift the float32 that is hard-coded in the port: --lift"
        if (first.verdict, first.precision) == ("dtype", "float64")
        else "mend this in the port first; the report above says where it begins",
    )
