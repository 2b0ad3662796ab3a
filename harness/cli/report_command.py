"""`goldens report`: a saved check, diff, audit or diagnosis, rendered again."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import chosen, output_options


@click.command(short_help="Render a saved check, diff or audit again.")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.json")
@output_options("html", "markdown", "junit")
def report(file: Path, **outputs: Path | None) -> None:
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
