"""Files that a command writes: refused before the work, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.report.output import STDOUT, check_outputs
from harness.report.views import write_views
from tests.report.samples import REPORT


def refusal(outputs):
    with pytest.raises(UsageError) as caught:
        check_outputs(outputs)
    assert "hint: " in str(caught.value)
    return str(caught.value)


def test_two_outputs_cannot_go_to_one_place(tmp_path):
    message = refusal({"html": tmp_path / "x", "markdown": tmp_path / "." / "x"})
    assert "--html and --markdown" in message
    assert "stdout" in refusal({"json": STDOUT, "html": STDOUT})
    check_outputs({"json": STDOUT, "html": tmp_path / "x", "markdown": tmp_path / "y"})


def test_two_names_of_one_file_are_one_place(tmp_path):
    file = tmp_path / "x"
    file.touch()
    (tmp_path / "soft").symlink_to(file)
    (tmp_path / "hard").hardlink_to(file)
    for other in ("soft", "hard"):
        assert "two outputs go to one place" in refusal({"html": file, "markdown": tmp_path / other})


def test_a_device_or_a_pipe_is_not_replaced_by_a_file(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "a device or a pipe" in refusal({"html": pipe})
    assert "a device or a pipe" in refusal({"html": Path("/dev/null")})
    assert "a folder" in refusal({"html": tmp_path})


def test_nothing_is_written_before_everything_is_rendered(tmp_path, monkeypatch):
    def broken(report):
        raise RuntimeError("boom")

    monkeypatch.setattr("harness.report.junit.junit", broken)
    with pytest.raises(RuntimeError):
        write_views(REPORT, {"html": tmp_path / "a.html", "junit": tmp_path / "b.xml"})
    assert list(tmp_path.iterdir()) == []
