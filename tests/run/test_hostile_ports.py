"""Whatever comes out of a port is contained: never a pass, never silence, and a real Ctrl-C stays one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.errors import MOST_CHARACTERS, HarnessError, PortError, UsageError
from harness.run.check import check
from harness.run.question import Question
from tests import zygote

ROOT = Path(__file__).parents[2]
QUESTION = Question(precisions=("float32",), modes=("forward",), cases=("digits",))
FAST = ("--precision", "float32", "--case", "digits")
EXITS = {
    "tests.run.exits_at_import:Port": "the port cannot be imported: SystemExit: 0",
    "tests.run.hostile_ports:ExitsInLoad": "the port raised SystemExit: 0",
    "tests.run.hostile_ports:ExitsInForward": "the port raised SystemExit: 0",
    "tests.run.hostile_ports:ExitsWithoutAsking": "the port raised SystemExit: 0",
    "tests.run.hostile_ports:ExitsInItsDeclarations": "the port raised SystemExit: 0",
    "tests.run.hostile_ports:InterruptsInForward": "the port raised KeyboardInterrupt",
    "tests.run.hostile_ports:SkipsItself": "the port raised Skipped: no need to look",
}


def hostile(name, golden_path, checkpoint):
    with pytest.raises(PortError) as caught:
        check(golden_path, checkpoint, f"tests.run.hostile_ports:{name}", QUESTION)
    return caught.value


@pytest.mark.parametrize("spec", EXITS)
@pytest.mark.parametrize("command", ["check", "diagnose", "diff"])
def test_a_port_that_ends_the_process_is_an_error_in_every_command(spec, command, tmp_path):
    sides = ("--before", spec, "--after", spec) if command == "diff" else ("--port", spec)
    result = CliRunner().invoke(cli, [command, *sides, *FAST, "--json", str(tmp_path / "out.json")])
    assert result.exit_code == 2, result.output
    assert EXITS[spec] in result.stderr
    assert not (tmp_path / "out.json").exists()


def test_a_port_that_ends_the_process_where_its_cache_is_made_is_an_error(golden_path, checkpoint):
    question = Question(precisions=("float32",), modes=("forward",), cases=("decode",))
    with pytest.raises(PortError, match="SystemExit"):
        check(golden_path, checkpoint, "tests.run.hostile_ports:ExitsInInitCache", question)


@pytest.mark.parametrize("name", ["IsInterrupted", "SwallowsTheInterrupt"])
def test_a_real_interrupt_ends_the_command_with_130(name):
    args = ("check", "--port", f"tests.run.hostile_ports:{name}", *FAST)
    done = zygote.run([sys.executable, "-m", "harness.cli", *args], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    assert "interrupted" in done.stderr


def test_what_the_harness_raised_is_shown_and_not_what_the_port_made_of_it(golden_path, checkpoint):
    error = hostile("WrapsWhatTheHarnessRaises", golden_path, checkpoint)
    assert error.problem.startswith("the port tapped one name twice")


def test_where_names_the_ports_own_line_and_not_one_inside_jax(golden_path, checkpoint):
    with pytest.raises(PortError) as caught:
        check(golden_path, checkpoint, "tests.run.ports:RaisesInForward", QUESTION)
    assert f"{os.sep}tests{os.sep}run{os.sep}ports.py:" in caught.value.where


@pytest.mark.parametrize("name", ["RaisesALongMessage", "RaisesWhatCannotBeShown"])
def test_what_a_port_says_is_short_or_said_to_be_unspeakable(golden_path, checkpoint, name):
    error = hostile(name, golden_path, checkpoint)
    assert len(str(error)) < 5 * MOST_CHARACTERS
    assert "cut: 300," in error.problem or "cannot be shown" in error.problem


def test_a_long_name_of_a_tap_is_cut_everywhere():
    result = CliRunner().invoke(cli, ["check", "--port", "tests.run.hostile_ports:InventsALongName", *FAST])
    assert result.exit_code == 2
    assert len(result.output) < 20_000
    assert "cut: 300,000 characters" in " ".join(result.output.split())


def test_every_fact_of_a_message_is_bounded_and_says_so():
    long = "y" * 200_000
    error = HarnessError(long, where=long, expected=[long], found={long: long}, hint=long)
    assert len(str(error)) < 6 * MOST_CHARACTERS
    assert str(error).count("(cut: 200,") == 4  # the problem, where, expected, the hint
    assert "(cut: 400," in str(error)
    assert str(UsageError("short", found="as it is", hint="this")).splitlines()[1] == "  found:    as it is"


@pytest.mark.parametrize("command", ["check", "diagnose"])
def test_a_check_that_compared_nothing_is_exit_2(command):
    result = CliRunner().invoke(cli, [command, "--port", "tests.run.hostile_ports:ComparesNothing", *FAST])
    assert result.exit_code == 2, result.output
    assert "nothing was compared" in result.stderr


def test_what_a_port_prints_is_not_part_of_the_json_on_stdout():
    args = ("check", "--port", "tests.run.hostile_ports:Prints", *FAST, "--json", "-")
    done = zygote.run([sys.executable, "-m", "harness.cli", *args], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "match"
    for line in (b"hello from Python", b"hello from below"):
        assert line in done.stderr
