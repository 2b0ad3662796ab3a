"""`goldens list`, `show`, `verify`: which goldens there are, what is in one, whether it is what was recorded; and
`goldens report`: a saved check, diff, audit or diagnosis, rendered again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from harness.cli.options import chosen, golden_argument, output_options


@click.command(name="list", short_help="List the embedded goldens and the families of models.")
def list_() -> None:
    """The embedded goldens, which commands take by name, and the model families that can be recorded.

    \b
    goldens check llama3
    """
    from harness import embedded
    from harness.cli.console import console
    from harness.report.pages.golden import listing
    from harness.report.terminal import print_page

    print_page(listing(embedded.goldens()), console())


@click.command(short_help="Say what a golden holds: model, cases, provenance, size.")
@golden_argument
def show(golden: str) -> None:
    """What is in GOLDEN (default: the embedded one): model, cases, provenance, size."""
    from harness.cli.console import console
    from harness.report.pages.golden import contents
    from harness.report.terminal import print_page
    from harness.store import open_golden

    with open_golden(golden) as opened:
        print_page(contents(opened), console())


@click.command(short_help="Read all of a golden, and compare it with its sha256.")
@golden_argument
def verify(golden: str) -> None:
    """Read every array of GOLDEN (default: the embedded one) and compare it with its sha256."""
    from harness.cli.console import Progress
    from harness.store import open_golden

    with open_golden(golden) as opened, Progress() as progress:
        progress.begin("verify", len(opened.manifest.arrays))
        count = opened.verify(progress.advance)
    click.echo(f"ok  {count:,} arrays verified  {opened.id}")


@click.command(short_help="Render a saved check, diff or audit again.")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.json")
@output_options("html", "markdown", "junit")
def report(file: Path, outputs: Mapping[str, Path | None]) -> None:
    """Render a saved check, diff, audit or diagnosis again; without an option, print it.

    It does not judge again: exit code 0 says that it was rendered, whatever the verdict.

    \b
    goldens report report.json
    goldens report report.json --html report.html --markdown "$GITHUB_STEP_SUMMARY"
    goldens report audit.json --html audit.html
    """
    from harness.report.reading import read_report
    from harness.report.views import print_document, write_views

    asked = chosen(outputs, {"the report": file})
    document = read_report(file)
    if asked:
        write_views(document, asked)
    else:
        from harness.cli.console import console

        print_document(document, console())
