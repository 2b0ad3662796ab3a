"""The command line as a user types it: exit codes, messages, files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import harness
from harness.cli import COMMANDS, cli
from tests import zygote

ROOT = Path(__file__).parent.parent
FAST = ("--precision", "float32", "--case", "digits")


def goldens(*args: str):
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def refused(result, *words):
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ") or "Usage:" in result.stderr
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.stderr
    return result


def test_a_matching_port_exits_with_0():
    result = goldens("check", *FAST)
    assert result.exit_code == 0
    assert "PASS" in result.stdout
    assert result.stderr == ""


def test_a_diverging_port_exits_with_1():
    result = goldens("check", *FAST, "--limit-rms", "0.001")
    assert result.exit_code == 1
    assert "FAIL" in result.stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--precision", "float16"), ("unknown precision", "float64, float32, bfloat16")),
        (("--precision", ","), ("nothing is to be checked",)),
        (("--case", "no-such"), ("no case of the golden matches", "hello")),
        (("--port", "no.such:Port"), ("cannot be imported",)),
        (("--weights", "/no/such/dir"), ("no checkpoint directory", "--weights DIR")),
        (("/no/such/golden.h5",), ("/no/such/golden.h5",)),
        (("--limit-rms", "0"), ("must be a positive number",)),
        (("--mode", "backward"), ("backward",)),
        (("--json", "/no/such/dir/report.json"), ("cannot be written", "mkdir -p")),
    ],
)
def test_what_cannot_be_checked_exits_with_2_and_a_hint(args, words):
    result = refused(goldens("check", *args), *words)
    if "Usage:" not in result.stderr:
        assert "hint: " in result.stderr


def test_the_json_file_is_the_report(tmp_path):
    path = tmp_path / "report.json"
    assert goldens("check", *FAST, "--json", path).exit_code == 0
    document = json.loads(path.read_text())
    assert document["verdict"] == "match"
    assert {r["case"] for r in document["results"]} == {"digits"}
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_json_on_stdout_is_nothing_but_json():
    result = goldens("check", *FAST, "--json", "-")
    assert json.loads(result.stdout)["schema"] == 1
    assert "PASS" in result.stderr


def test_a_refused_check_writes_no_json(tmp_path):
    path = tmp_path / "report.json"
    refused(goldens("check", "--case", "none", "--json", path))
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_does_not_fit_leaves_the_old_one(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    code = (
        "import resource, sys; from harness.report.output import write_output; from pathlib import Path\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "write_output(Path(sys.argv[1]), b'x' * 1000)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert "the output could not be written: File too large" in done.stderr
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_show_names_the_model_the_cases_and_the_provenance():
    result = goldens("show")
    assert result.exit_code == 0
    for word in ("qwen2-tiny", "multi-token", "torch", "transformers", "sha256", "float64"):
        assert word in result.stdout


def test_verify_reads_every_array(golden_path):
    result = goldens("verify")
    assert result.exit_code == 0
    assert "arrays verified" in result.stdout


def test_verify_and_check_refuse_a_damaged_golden(tmp_path, golden_path, checkpoint):
    damaged = tmp_path / "damaged.h5"
    content = bytearray(golden_path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    refused(goldens("verify", damaged), "hint: ")


def test_an_unexpected_error_is_not_an_answer_about_the_port(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("boom")

    monkeypatch.setattr("harness.embedded.golden", fail)
    result = goldens("check")
    assert result.exit_code == 2
    assert "this is a bug in goldens" in result.stderr


@pytest.mark.parametrize("platform", ["tpu", "no-such-platform"])
def test_a_backend_that_is_not_there_is_said_in_few_lines(platform):
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", "check", *FAST],
        env={**os.environ, "JAX_PLATFORMS": platform},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    error = done.stderr[done.stderr.index("error: ") :]
    assert "JAX cannot start the backend" in error
    assert f"JAX_PLATFORMS={platform}" in error
    assert "bug in goldens" not in done.stderr
    assert len(done.stderr.splitlines()) < 12


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_the_exit_codes_are_in_the_help(command):
    text = " ".join(goldens(*([command] if command else []), "--help").stdout.split())
    if command in (None, "check", "diff", "diagnose", "audit"):
        assert "Exit codes: 0 " in text
        assert "2 could not" in text
    if command is None:
        assert "130 interrupted (Ctrl-C), 143 terminated (SIGTERM)" in text
    if command == "check":
        assert "beside the golden" in text


def test_the_traceback_is_there_for_who_asks():
    args = ("check", *FAST, "--port", "tests.run.ports:RaisesInLoad")
    assert "Traceback" not in goldens(*args).stderr
    result = CliRunner(env={"GOLDENS_TRACEBACK": "1"}).invoke(cli, args)
    assert "Traceback" in result.stderr
    assert "no such layer" in result.stderr


def test_a_newcomer_breaks_one_line_of_the_decoder_and_is_told_which_operation_broke(tmp_path):
    """The whole promise, from outside: a copy of the package, one edited line, the command."""
    package = Path(harness.__file__).parent
    shutil.copytree(package, tmp_path / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(package.parent / "goldens", tmp_path / "goldens")
    operations = tmp_path / "harness" / "run" / "operations.py"
    right, wrong = "first * cos - second * sin", "first * cos + second * sin"
    assert operations.read_text().count(right) == 1
    operations.write_text(operations.read_text().replace(right, wrong))
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", "check", "--case", "one-to-five"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert "introduced at  layers.*.q_rope" in done.stdout
    assert "introduced at  layers.*.k_rope" in done.stdout
    assert done.stdout.count("introduced at") == 2
    assert "position 0 is clean in every case" in done.stdout


FULL = Path("/dev/full")


def ended(*args, run=zygote.run, **streams):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "harness.cli", *map(str, args)]
    buffered = {name: value for name, value in os.environ.items() if name != zygote.UNBUFFERED}
    return run(command, stdin=subprocess.DEVNULL, text=True, timeout=120, env=buffered, **streams)


@pytest.mark.skipif(not FULL.exists(), reason="there is no device that is always full")
@pytest.mark.parametrize(
    "args", [("show",), ("list",), ("check", "--case", "hello", "--precision", "float32", "--json", "-")]
)
def test_output_that_cannot_be_written_is_a_refusal_and_no_bug(args):
    with FULL.open("w") as full:
        done = ended(*args, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert "what this command prints cannot be written: No space left on device" in done.stderr
    assert "hint: " in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(not FULL.exists(), reason="there is no device that is always full")
@pytest.mark.parametrize("full", ["stderr", "both"])
def test_a_refusal_that_nobody_can_read_is_no_divergence(tmp_path, full):
    with FULL.open("w") as nowhere:
        done = ended("show", tmp_path / "a.h5", stderr=nowhere, stdout=nowhere if full == "both" else None)
    assert done.returncode == 2


def test_a_pipe_that_is_closed_is_no_divergence():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = ended("show", run=subprocess.run, stdout=closed, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert "cannot be written: Broken pipe" in done.stderr and "Traceback" not in done.stderr


def test_the_list_of_commands_has_whole_sentences():
    lines = goldens("--help").output.partition("Commands:\n")[2].splitlines()
    listed = dict(line.split(maxsplit=1) for line in lines)
    assert listed.keys() == {*COMMANDS}
    assert all(text.endswith(".") and "..." not in text for text in listed.values()), listed
