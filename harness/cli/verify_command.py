"""`goldens verify`: is the golden what was recorded, byte for byte."""

from __future__ import annotations

import click

from harness.cli.options import golden_argument


@click.command(short_help="Read all of a golden, and compare it with its sha256.")
@golden_argument
def verify(golden: str) -> None:
    """Read every array of GOLDEN (default: the embedded one) and compare it with its sha256."""
    from harness.cli.progress import Progress
    from harness.store import open_golden

    with open_golden(golden) as opened, Progress() as progress:
        progress.begin("verify", len(opened.manifest.arrays))
        count = opened.verify(progress.advance)
    click.echo(f"ok  {count:,} arrays verified  {opened.id}")
