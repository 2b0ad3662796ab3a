"""The command line. Imports happen inside commands, so that help is instant."""

from harness.cli.group import cli

__all__ = ["cli"]
