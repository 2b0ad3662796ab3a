#!/usr/bin/env python
"""Record goldens from PyTorch: `goldens record`, for a checkout that is not installed."""

from __future__ import annotations

import sys

from harness.cli import cli

if __name__ == "__main__":
    cli.main(["record", *sys.argv[1:]], prog_name="goldens")
