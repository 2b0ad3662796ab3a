"""`goldens show`: what is in a golden."""

from __future__ import annotations

import click


@click.command()
@click.argument("golden", required=False)
def show(golden: str | None) -> None:
    """What is in GOLDEN (default: the embedded one): model, cases, provenance, size."""
    from harness import embedded
    from harness.cli.console import console
    from harness.report.contents import print_contents
    from harness.store import open_golden

    with open_golden(golden or str(embedded.golden())) as opened:
        print_contents(opened, console())
