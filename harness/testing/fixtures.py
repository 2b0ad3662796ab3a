"""`check_golden`: a check as one call, for tests that a project writes itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, UsageError
from harness.testing.items import refuse_divergence, wants_traceback
from harness.testing.settings import PORT_HINT, Settings

if TYPE_CHECKING:
    from harness.report.document import Report
    from harness.store import Golden


@dataclass(frozen=True)
class CheckGolden:
    """Checks a port against the golden of the `golden` fixture; annotate the fixture with this class."""

    golden: Golden
    settings: Settings

    def __call__(
        self,
        port: Any = None,
        *,
        weights: str | Path | None = None,
        precision: str | Sequence[str] | None = None,
        cases: str | Sequence[str] = (),
        mode: str | None = None,
        limit_rms: float | None = None,
        limit_max: float | None = None,
        lift: bool | None = None,
        allow_reduced_precision: bool | None = None,
        mesh: str | None = None,
        criteria: str | None = None,
    ) -> Report:
        """Check a port; what is not given is as pytest's options and configuration say.

        Args:
            port: `package.module:Name`, a class or module with `load`, or a port that is already loaded: a loaded
                port has one dtype and takes one precision.
            weights: the golden's checkpoint.
            precision: one or several of float64, float32, bfloat16.
            cases: glob patterns of case names; none means all.
            mode: forward, replay, prefill, alone, several of them with commas, both (the first two), or all.
            limit_rms, limit_max: factors on every limit: above 1 misses bugs, below 1 accuses correct ports.
            lift: in float64, lift the float32 that is hard-coded in the port.
            allow_reduced_precision: check float32 as it is deployed; the report's notes say so.
            mesh: axes of the mesh of devices that the port is given: data=2,model=4.
            criteria: thresholds on the logits that the report speaks of: max_abs=1e-4, several with commas.

        Returns:
            The report, where everything matched.

        Raises:
            AssertionError: something did not match or could not be compared; the message is the report.
            HarnessError: it could not be checked at all.
        """
        __tracebackhide__ = True
        from harness.run.check import check
        from harness.run.loading import port_from_object

        chosen = self.settings.port if port is None else port
        if chosen is None:
            raise UsageError("check_golden was given no port", hint=f"check_golden(port), or {PORT_HINT}")
        asked: dict[str, Any] = {
            "precision": precision if precision is None or isinstance(precision, str) else ",".join(precision),
            "cases": ((cases,) if isinstance(cases, str) else tuple(cases)) or None,
            "mode": mode,
            "limit_rms": limit_rms,
            "limit_max": limit_max,
            "lift": lift,
            "allow_reduced_precision": allow_reduced_precision,
            "mesh": mesh,
            "criteria": criteria,
            "weights": None if weights is None else Path(weights),
            "weights_from": None if weights is None else "check_golden(weights=...)",
        }
        settings = replace(self.settings, **{name: value for name, value in asked.items() if value is not None})
        try:
            question = settings.question()
            spec, load = port_from_object(chosen, question)
            report = check(self.golden.path, settings.checked_weights(), spec, question, load=load)
        except HarnessError as error:
            if wants_traceback():
                raise
            # What is wrong is in the message: of the frames, the line of the test is the one that helps.
            raise error.with_traceback(None) from None
        refuse_divergence(report)
        return report
