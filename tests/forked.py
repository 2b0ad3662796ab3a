"""A process that may be killed or run out of disk, and need not import everything first."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import NoReturn


def in_a_fork(function: Callable[[], object]) -> CompletedProcess[str]:
    """Call a function in a copy of this process. JAX does not survive in one: the function must not use it.

    Returns:
        How it ended: 0, 1 where it raised (with the traceback in `stderr`), -n where signal n killed it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX, and Python from 3.12 on, warn of threads
        pid = os.fork()
    if pid == 0:
        _run(function, writing)
    os.close(writing)
    with os.fdopen(reading) as stderr:
        said = stderr.read()
    return CompletedProcess([], os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), stderr=said)


def _run(function: Callable[[], object], stderr: int) -> NoReturn:
    """Never returns: what is above would be cleaned up twice."""
    code = 1
    try:
        os.dup2(stderr, 2)
        os.close(stderr)
        sys.stderr = os.fdopen(2, "w", closefd=False)  # not pytest's
        function()
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)
