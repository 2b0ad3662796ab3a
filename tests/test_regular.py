"""Only regular files are opened, and nothing waits, whatever lies at a path."""

from __future__ import annotations

import os
import socket

import pytest

from harness.foreign import MIB, UnfitFileError, open_regular, read_regular, read_text


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    return path


def test_a_file_is_read_whole_up_to_the_limit_and_not_beyond(file):
    assert read_regular(file, 10) == b"0123456789"
    with pytest.raises(UnfitFileError, match="longer than 9 bytes"):
        read_regular(file, 9)


def test_a_file_of_more_than_one_part_is_read_whole(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(33 * MIB))
    assert len(read_regular(path, 40 * MIB)) == 33 * MIB


def test_a_symbolic_link_to_a_file_is_followed(file, tmp_path):
    (tmp_path / "link").symlink_to(file)
    assert read_text(tmp_path / "link", 100) == "0123456789"


def test_a_file_without_a_size_is_bounded_all_the_same():
    with pytest.raises(UnfitFileError, match="longer than 3 bytes"):
        read_regular("/proc/self/status", 3)
    assert read_regular("/proc/self/status", MIB).startswith(b"Name:")


def test_a_fifo_a_device_a_socket_and_a_directory_are_refused_at_once(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as made:
        monkeypatch.chdir(tmp_path)  # the names of sockets are short
        made.bind("socket")
        for name, kind in (
            ("fifo", "a FIFO"),
            ("link", "a FIFO"),
            ("socket", "a socket"),
            ("/dev/zero", "a device"),
            (str(tmp_path), "a directory"),
        ):
            with pytest.raises(UnfitFileError, match=f"it is {kind}, not a regular file"):
                open_regular(tmp_path / name)


def test_what_is_not_there_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")


def test_a_fifo_that_takes_the_place_of_a_file_between_look_and_open_does_not_wait(file, monkeypatch):
    looked = file.stat()
    file.unlink()
    os.mkfifo(file)
    monkeypatch.setattr(os, "stat", lambda path: looked)
    with pytest.raises(UnfitFileError, match="a FIFO"):
        open_regular(file)
