"""`python -m harness.cli` is `goldens`."""

from harness.cli import cli

if __name__ == "__main__":
    cli()
