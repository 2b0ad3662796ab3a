"""What a port does to stdout and stderr stays with the port."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from harness.cli.console import stdout_to_stderr
with stdout_to_stderr():
    print("of the port")
    {does}
print("data")
print("message", file=sys.stderr)
"""


@pytest.mark.parametrize(
    "does",
    [
        "pass",
        "sys.stdout.close(); sys.stderr.close()",
        "sys.__stdout__.close(); sys.__stderr__.close()",
        "os.close(1); os.close(2)",
        "sys.stdout = sys.stderr = None",
    ],
)
def test_whatever_a_port_does_to_its_streams_what_comes_after_is_written(does):
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(does=does)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "data\n")
    assert done.stderr.endswith("message\n")
    assert "Traceback" not in done.stderr
    if "os.close" not in does:
        assert done.stderr == "of the port\nmessage\n"
