"""An output that is an input is refused before anything runs, by whatever name or link it is called."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.cli.options import port_file

ROOT = Path(__file__).parent.parent
PORT = "tests.run.ports:Wrapped"


@pytest.fixture
def places(tmp_path, golden_path, checkpoint):
    """A golden and its checkpoint as copies, which a test may put at risk."""
    golden = tmp_path / golden_path.name
    shutil.copy(golden_path, golden)
    shutil.copytree(checkpoint, tmp_path / checkpoint.name)
    saved = tmp_path / "saved.json"
    saved.write_text("{}")
    return golden, tmp_path / checkpoint.name, saved


def refused(*args):
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    assert result.exit_code == 2, result.output
    assert "error: an output is an input" in result.stderr
    assert "hint: name another file" in result.stderr


@pytest.mark.parametrize("link", [None, "symlink_to", "hardlink_to"])
@pytest.mark.parametrize("which", ["golden", "config.json", "model.safetensors", "saved"])
def test_no_command_writes_over_what_it_reads(places, tmp_path, link, which):
    golden, weights, saved = places
    victim = {"golden": golden, "saved": saved}.get(which) or weights / which
    output = victim
    if link:
        output = tmp_path / "innocent"
        getattr(output, link)(victim)
    before = victim.read_bytes()
    if which == "saved":
        refused("report", saved, "--html", output)
        refused("diff", "--before", saved, "--after", tmp_path / "other.json", "--json", output)
    else:
        for command in (("check", "--port", PORT), ("diagnose", "--port", PORT), ("audit",)):
            refused(*command, golden, "--weights", weights, "--json", output)
    assert victim.read_bytes() == before


def test_the_embedded_golden_and_the_checkpoint_beside_a_golden_are_inputs_too(golden_path, places):
    golden, weights, _ = places
    refused("check", "--json", golden_path)
    refused("diff", "--before", PORT, "--after", PORT, "--json", golden_path)
    refused("check", golden, "--json", weights / "config.json")
    refused("check", golden, "--html", weights / "a-new-file.html")


def test_nothing_is_added_to_a_zarr_golden(tmp_path):
    zarr = tmp_path / "golden.zarr"
    (zarr / "cases").mkdir(parents=True)
    (zarr / "zarr.json").write_text("{}")
    refused("check", zarr, "--json", zarr / "cases" / "report.json")


def test_the_file_of_the_port_is_an_input(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert port_file(PORT) == ROOT / "tests" / "run" / "ports.py"
    assert port_file("tests.run:Port") == ROOT / "tests" / "run" / "__init__.py"
    assert port_file("no_such_package.port:Port") is None
    refused("check", "--port", PORT, "--json", ROOT / "tests" / "run" / "ports.py")
