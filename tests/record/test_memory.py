"""What stays mapped stays in memory: no file is held open longer than it is read. See also tests/benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytestmark = [
    pytest.mark.record,
    pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see what is mapped"),
]

from safetensors import safe_open

from harness.checkpoint import Checkpoint
from harness.record import recorder


def mapped(part: str) -> set[str]:
    """The files with this in their path that are mapped into this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if part in line}


def test_a_tensor_that_was_read_leaves_nothing_of_the_checkpoint_mapped(shallow_copy):
    directory = shallow_copy()
    checkpoint = Checkpoint(directory)
    kept = [checkpoint.read(name) for name in checkpoint.names]
    assert kept and not mapped(str(directory))


def test_the_test_would_notice_a_mapping(shallow_copy):
    directory = shallow_copy()
    with safe_open(directory / "model.safetensors", framework="pt") as file:
        kept = file.get_tensor("lm_head.weight")
    assert kept.numel() and len(mapped(str(directory))) == 1


def test_while_the_golden_is_written_two_units_are_mapped_at_a_time(tiny, small, tmp_path, monkeypatch):
    write, most = recorder.write_golden, []

    def watching(out, arrays, *rest, **options):
        def watched():
            for array in arrays:
                yield array
                most.append(sum(".partial/units" in file for file in mapped(str(tmp_path))))

        return write(out, watched(), *rest, **options)

    monkeypatch.setattr(recorder, "write_golden", watching)
    recorder.record(tiny, "t", small, str(tmp_path / "a.h5"))
    assert max(most) <= 2
