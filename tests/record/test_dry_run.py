"""`goldens record --dry-run`: what it says is what a recording then takes."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("torch")

from rich.console import Console

from harness.checkpoint import Checkpoint
from harness.corpus import load_corpus
from harness.costs import by_part, costs, nbytes
from harness.record import dry_run, unit
from harness.record.command import Request, run
from harness.record.dry_run import estimate
from harness.record.recorder import Options, record
from harness.store import open_golden
from tests.families import tiny

pytestmark = pytest.mark.record
CORPUS = """
[[prompt]]
name = "whole"
text = "hello world"

[[prompt]]
name = "kept"
text = "kept at two positions"
positions = "every 20th, last 1"

[[prompt]]
name = "shallow"
text = "logits"
level = "logits"

[[decode]]
name = "steps"
text = "decoded"
steps = 2

[[generation]]
name = "written"
text = "go on"
tokens = 4
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dry")
    (folder / "corpus.toml").write_text(CORPUS)
    return tiny.write(folder / "model", "llama", "linear"), folder / "corpus.toml"


def test_what_it_says_is_what_is_recorded(place, tmp_path, monkeypatch):
    checkpoint, corpus = place[0], load_corpus(place[1])
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "read", lambda *_: pytest.fail("a weight was read"))
        found = estimate(checkpoint, corpus, Options())
    ran: Counter[tuple[int, ...]] = Counter()
    once = unit.run_calls

    def counted(stage, inputs, *more):
        if stage.prefix == "layers.0":
            ran[tuple(inputs.ids[0].tolist())] += 1
        return once(stage, inputs, *more)

    monkeypatch.setattr(unit, "run_calls", counted)
    record(checkpoint, "model", corpus, str(tmp_path / "golden.h5"))
    with open_golden(tmp_path / "golden.h5") as golden:
        manifest = golden.manifest
        ids = {case.name: golden.case(case.name).input_ids[0].tolist() for case in manifest.cases}
    written = {name: ran[tuple(row)] for name, row in ids.items()}
    assert found.passes == written
    assert sum(by_part(found.costs).values()) == sum(map(nbytes, manifest.arrays.values()))
    assert found.costs == costs(manifest)


def said(place, out: Path, **more) -> str:
    console = Console(file=io.StringIO(), width=120)
    assert run(Request(str(place[0]), place[1], str(out), dry_run=True, **more), console) == []
    return console.file.getvalue()


def test_the_command_says_it_and_writes_nothing(place, tmp_path, monkeypatch):
    before = sorted(tmp_path.iterdir())
    text = said(place, tmp_path / "golden.h5")
    assert "written" in text and "nothing was recorded" in text and "too little" not in text
    assert sorted(tmp_path.iterdir()) == before
    monkeypatch.setattr(dry_run, "_free", lambda out: 1000)
    assert "(1.0 kB free: too little)" in said(place, tmp_path / "golden.h5")


def test_of_a_url_no_disk_is_known(place):
    assert "free" not in said(place, "memory://bucket/golden.zarr")
