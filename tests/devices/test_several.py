"""A check in two processes of four devices each, on one machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.run.devices import COUNT_FLAG
from harness.run.processes import FAREWELL, VARIABLE, Processes, _watch, processes_of
from tests import zygote
from tests.compiled import OWN
from tests.test_cli import FAST, goldens, refused

ROOT = Path(__file__).parents[2]
SECONDS = 240
WHICH = ("--processes", "2", "--process-id", "0", "--coordinator", "localhost:1234")


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def environment() -> dict[str, str]:
    """Of both processes: what JAX has compiled may be written by one process alone, so neither keeps it."""
    flags = " ".join(filter(None, (os.environ.get("XLA_FLAGS"), f"{COUNT_FLAG}=4")))
    kept = {name: value for name, value in os.environ.items() if name != OWN}
    return {**kept, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def both(*args: object) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of both processes of a check."""
    coordinator = f"localhost:{free_port()}"
    command = [sys.executable, "-m", "harness.cli", "check", *map(str, args), "--processes", "2"]
    started = [
        zygote.Popen(
            [*command, "--process-id", str(index), "--coordinator", coordinator],
            env=environment(),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=SECONDS) for process in started]
    return [(process.returncode, *texts) for process, texts in zip(started, said, strict=True)]


def test_both_run_the_port_and_the_first_reports(tmp_path):
    file = tmp_path / "report.json"
    case = ("--precision", "float32", "--case", "digits")
    first, second = both(*case, "--mesh", "data=2,model=4", "--json", file)
    assert (first[0], second[0]) == (0, 0), (first, second)
    assert "PASS  134 of 134 comparisons match" in first[1]
    assert "data=2,model=4 of 8 devices (cpu) in 2 processes" in first[1]
    assert second[1] == ""
    report = json.loads(file.read_text())
    assert report["environment"]["processes"] == 2
    assert {(r["mode"], r["verdict"]) for r in report["results"]} == {("forward", "match"), ("replay", "match")}


@pytest.mark.parametrize(
    ("port", "codes", "words"),
    [
        ("KilledInTheSecond", (2, -9), ("another process of the check has ended", "process 1", "hint: ")),
        ("AnotherInTheSecond", (2, 2), ("", "", "")),
    ],
)
def test_where_one_fails_none_reports_a_match(port, codes, words):
    ran = both("--mesh", "x=8", "--port", f"tests.devices.several:{port}", *FAST, "--mode", "forward")
    assert tuple(code for code, _, _ in ran) == codes, ran
    assert [out for _, out, _ in ran] == ["", ""]
    for word in words:
        assert word in ran[0][2]
    assert "process 0 of 2: error: " in ran[0][2]


def test_where_the_others_do_not_come_it_ends_with_a_message():
    code = (
        "import os\nfrom harness.run.processes import Processes, join\n"
        f"def give_up(error):\n    os.write(1, str(error).encode())\n    os._exit(2)\n"
        f"join(Processes(2, 0, 'localhost:{free_port()}'), give_up, seconds=1)"
    )
    command = [sys.executable, "-c", code]
    done = zygote.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "not all processes of the check have come" in done.stdout
    assert "hint: start the same command once for each --process-id" in done.stdout


@pytest.mark.parametrize(("last", "ended"), [(b"", True), (FAREWELL, False), (b"?", True)])
def test_a_connection_that_ends_without_a_farewell_is_a_death(last, ended):
    ours, theirs = socket.socketpair()
    deaths = []
    watching = threading.Thread(target=_watch, args=(Processes(2, 0, "localhost:1"), 1, ours, deaths.append))
    watching.start()
    theirs.sendall(last)
    theirs.close()
    watching.join(SECONDS)
    ours.close()
    assert [error.where for error in deaths] == (["process 1"] if ended else [])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (WHICH[:2], ("needs all that says which of them", "no --process-id, no --coordinator")),
        (WHICH[2:], ("needs all that says which of them", "no --processes")),
        (("--processes", "1", *WHICH[2:]), ("two or more", "found:    1")),
        ((*WHICH[:2], "--process-id", "2", *WHICH[4:]), ("no process of this number", "--process-id 0 to 1")),
        ((*WHICH[:4], "--coordinator", "localhost"), ("not the address", "HOST:PORT")),
        ((*WHICH[:4], "--coordinator", ":1234"), ("not the address", "HOST:PORT")),
        ((*WHICH[:4], "--coordinator", "localhost:70000"), ("not the address", "HOST:PORT")),
    ],
)
def test_what_does_not_say_which_process_this_is_is_refused(args, words, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    result = refused(goldens("check", *FAST, "--mesh", "data=1", *args), *words)
    assert "hint: for example --processes 2 --process-id 0 --coordinator localhost:1234" in result.stderr


def test_several_processes_need_a_mesh():
    refused(goldens("check", *FAST, *WHICH), "a port needs a mesh", "--mesh data=2,model=4")


def test_the_coordinator_may_be_in_the_variable_of_jax(monkeypatch):
    monkeypatch.setenv(VARIABLE, "[::1]:99")
    assert processes_of(2, 1, None) == Processes(2, 1, "[::1]:99")
    assert processes_of(2, 1, "here:1") == Processes(2, 1, "here:1")
    assert processes_of(None, None, None) is None
