"""`goldens show`: everything that a manifest says, as it says it."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace

import pytest

from harness.cli import console as consoles
from harness.report.pages.golden import contents
from harness.report.terminal import print_page
from harness.store import open_golden
from harness.store.location import shown


@pytest.fixture
def show(golden_path):
    """Print a golden whose manifest is the embedded one's, changed."""

    def printed(config=None, why="why", path="golden.h5"):
        with open_golden(golden_path) as golden:
            manifest = golden.manifest
            nbytes = golden.nbytes
        changed = replace(
            manifest,
            model=replace(manifest.model, config={**manifest.model.config, **(config or {})}),
            cases=(replace(manifest.cases[0], why=why),),
        )
        out = io.StringIO()
        console = consoles.console()
        console.file, console.width = out, 400
        print_page(contents(SimpleNamespace(path=path, id="ab" * 32, nbytes=nbytes, manifest=changed)), console)
        return " ".join(out.getvalue().split())  # lines are as long as the console is wide

    return printed


def test_what_is_nested_in_the_config_is_shown(show):
    rope = {"rope_theta": 12345.0, "rope_type": "default"}
    text = show(config={"rope_parameters": rope, "layer_types": ["full_attention"], "rope_scaling": None})
    assert "rope_parameters (rope_theta 12345.0, rope_type default)" in text
    assert "layer_types (full_attention)" in text
    assert "rope_scaling none" in text


@pytest.mark.parametrize("why", ["a slice [/]", "[bold]x[/bold]", "a :smile: b", "\x1b[31mred"])
def test_what_looks_like_markup_is_shown_as_it_is(show, why):
    text = show(why=why, config={"note": why})
    assert text.count(why.replace("\x1b", "\\x1b")) == 2
    assert "\x1b" not in text


def test_paths_are_printed_normalised(show):
    assert "a/golden.h5" in show(path="./a/../a//golden.h5")
    assert shown("gs://bucket//a/../b.zarr") == "gs://bucket//a/../b.zarr"


def test_no_console_of_the_command_line_reads_markup():
    for stderr in (True, False):
        assert not consoles.console(stderr)._markup
