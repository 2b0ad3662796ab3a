"""A port that breaks its contract: where nothing could be compared, the answer is neither match nor diverged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.comparison import FLOATS
from harness.errors import PortError
from harness.report.document import Report
from harness.report.summary import is_comparable
from harness.report.wording import breach
from harness.results import TapResult
from harness.taps import kind_of
from harness.verdict import Narrower, breaks_contract, was_compared


def broken_contract(report: Report) -> PortError | None:
    """The error to raise where nothing, or not every tap, could be compared (`BROKEN`); else None."""
    if is_comparable(report):
        return None
    if all(result.verdict == "tied" for result in report.results):
        return nothing_compared(report)
    broken = [result for result in report.results if breaks_contract(result)]
    first = broken[0]
    reasons = [breach(result) for result in broken]
    as_it_is = next((narrow for narrow in report.narrower if narrow.precision == first.precision), None)
    kinds = ", ".join(dict.fromkeys(reasons))
    problem = f"{len(broken)} taps could not be compared ({kinds})"
    if as_it_is is not None and kinds == "dtype":
        problem = f"this model computes in {as_it_is.dtype} whatever it is asked for"
    where = f"{first.tap} in case {first.case}, {first.precision}, {first.mode}: {reasons[0]}"
    expected, found = first.expected or "finite values", first.found or "NaN or infinity"
    return PortError(problem, where, expected, found, hint=_hint(broken, as_it_is))


def _hint(broken: Sequence[TapResult], as_it_is: Narrower | None) -> str:
    """What to do about what is broken, and what a port declares whose taps have another dtype by design."""
    said = []
    if as_it_is is not None and as_it_is.command is not None:
        said.append(f"check it as it is: `{as_it_is.command}`")
    narrow = [r for r in broken if breach(r) == "dtype" and not was_compared(r)]
    if any(r.precision == "float64" for r in narrow):
        said.append("lift the float32 that is hard-coded in the port: --lift")
    declared = declaration({kind_of(r.tap): r.found for r in broken if breach(r) == "dtype" and was_compared(r)})
    if declared:
        said.append(f"where that is by design the port says so: {declared}; its values are compared already")
    untrue = {kind_of(r.tap): r.expected for r in narrow if r.expected in FLOATS and r.expected != r.precision}
    if untrue:
        said.append(f"{declaration(untrue)} is what the port declares, and not what comes: correct that line")
    return "; ".join(said) or "mend this in the port first; the report above says where it begins"


def declaration(wider: Mapping[str, str | None]) -> str | None:
    """The line of a port that declares dtypes, by kind of tap; None where there is none to declare."""
    said = ", ".join(f'"{kind}": "{dtype}"' for kind, dtype in wider.items())
    return f"dtypes = {{{said}}}" if said else None


def nothing_compared(report: Report) -> PortError:
    """Neither match nor diverged: the port leaves nothing to be compared."""
    hint = "the port declares too much as `without` or `cannot`, or too little was asked for (--case, --mode)"
    found = "; ".join(report.not_covered) or "no results"
    return PortError("nothing was compared", report.port, "at least one comparison", found, hint=hint)
