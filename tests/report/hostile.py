"""A report whose names try to be syntax."""

from __future__ import annotations

from dataclasses import replace

from tests.report.samples import REPORT, build, result

NAME = "<script>alert('x')</script> | `*_#@you \x1b[31m & www.example.com https://example.com"
NAMED = replace(
    REPORT,
    port=NAME,
    golden=replace(REPORT.golden, path=NAME, model=NAME, provenance={NAME: NAME}),
    notes=(NAME,),
    not_covered=(NAME,),
    environment={**REPORT.environment, NAME: [NAME]},
    limits={name: replace(entry, why=NAME) for name, entry in REPORT.limits.items()},
    results=tuple(replace(r, case=NAME) if r.case == "code" else r for r in REPORT.results),
)
EXTRA = build(replace(result(NAME, verdict="extra"), expected=NAME, found=NAME, case=NAME), result("embed"))
