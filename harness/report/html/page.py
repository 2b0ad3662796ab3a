"""Pages that stand alone: one file, no script, no font and no request from anywhere else."""

from __future__ import annotations

from typing import Any

import jinja2

from harness.report import wording
from harness.report.html import heatmap, scale


def render(template: str, **context: Any) -> str:
    """A template with what every page needs."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.report.html"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = wording.number
    environment.globals.update(wording=wording, scale=scale, marks=heatmap)
    return environment.get_template(template).render(context) + "\n"
