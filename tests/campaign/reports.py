"""Saved reports as nobody saved them: damaged, edited, deep, at odds with themselves.

Claim: each is rendered, or refused in few words.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from hypothesis import strategies as st

from harness import embedded
from harness.report.document import encode
from tests.campaign.damage import DAMAGES, Damage
from tests.campaign.forked import forked, goldens, held, imported
from tests.campaign.goldens import CASE, slice_of
from tests.campaign.hostile import VALUES, damaged, edited, json_bytes
from tests.campaign.trials import BrokenClaimError, Tried
from tests.report.audit_samples import BLIND

WRONG = """
from harness.run.decoder import Decoder

class Port:
    def __init__(self, inner):
        self.inner = inner
    @classmethod
    def load(cls, *given):
        return cls(Decoder.load(*given))
    def forward(self, input_ids, positions, mask, cache, tap):
        def wrong(name, value):
            return tap(name, value * 1.5 if "q_rope" in name else value)
        return self.inner.forward(input_ids, positions, mask, cache, wrong)
"""
MINUTES = 300


class Reports:
    """What this package has saved: two checks, a diff of them, an audit."""

    def __init__(self, folder: Path) -> None:
        self.trial, self.whole = folder / "trial", folder / "whole"
        self.whole.mkdir()
        golden = slice_of(embedded.golden(), folder / "slice.h5", CASE)
        (folder / "wrong_port.py").write_text(WRONG)
        self.files = {name: self.whole / f"{name}.json" for name in ("right", "wrong", "diff", "audit")}
        common = ("--weights", embedded.directory() / "qwen2-tiny", "--precision", "float32", "--mode", "both")

        def check(name: str, port: str) -> int:
            os.chdir(folder)
            return goldens("check", golden, *common, "--port", port, "--json", self.files[name])

        held(forked(lambda: check("right", "harness.run.decoder:Decoder"), MINUTES), (0,))
        held(forked(lambda: check("wrong", "wrong_port:Port"), MINUTES), (1,))
        sides = ("--before", self.files["wrong"], "--after", self.files["right"])
        held(forked(lambda: goldens("diff", *sides, "--json", self.files["diff"]), MINUTES), (0,))
        self.files["audit"].write_bytes(encode(BLIND))
        for file in self.files.values():
            held(forked(lambda file=file: goldens("report", file)), (0,))

    def documents(self) -> st.SearchStrategy[bytes]:
        """A report with parts of it changed, or what is none."""
        made = [
            json_bytes(edited(json.loads(path.read_bytes())).map(lambda one: one.value))
            for path in self.files.values()
        ]
        raw = [damaged(path.read_bytes()) for path in self.files.values()]
        return st.one_of(
            *made, *made, *raw, json_bytes(VALUES), st.builds(_deep, st.integers(1, 200_000), st.text(max_size=3))
        )

    def rendered(self, content: bytes) -> bool:
        """Claim: every view of it, or a refusal."""
        shutil.rmtree(self.trial, ignore_errors=True)
        self.trial.mkdir()
        path = self.trial / "a.json"
        path.write_bytes(content)
        views = [word for view in _views(content) for word in (f"--{view}", self.trial / view)]

        def every() -> int:
            plain, drawn = goldens("report", path), goldens("report", path, *views)
            if drawn == 2 and plain == 0:
                raise BrokenClaimError("printed, and not drawn")
            sides = ((path, self.files["right"]), (self.files["wrong"], path))
            codes = {goldens("diff", "--before", before, "--after", after) for before, after in sides}
            if codes - {0, 1, 2} or {plain, drawn} - {0, 2}:
                raise BrokenClaimError(f"report: {plain}, {drawn}; diff: {codes}")
            return plain

        return held(forked(every, 20), (0, 2), len(content)).code == 2

    def damaged(self, damage: Damage) -> bool:
        """Claim: the same of one that was damaged."""
        shutil.rmtree(self.trial, ignore_errors=True)
        self.trial.mkdir()
        copies = [self.trial / path.name for path in self.files.values()]
        for source, copy in zip(self.files.values(), copies, strict=True):
            shutil.copyfile(source, copy)
        damaged_ = damage.apply(copies)
        return damaged_.exists() and self.rendered(damaged_.read_bytes())


def _views(content: bytes) -> tuple[str, ...]:
    """What is drawn of a document; of an audit there is no JUnit: it judges the golden, and no port."""
    try:
        kind = json.loads(content).get("kind")
    except (ValueError, AttributeError, RecursionError):
        kind = None
    return ("html", "markdown") if kind == "audit" else ("html", "markdown", "junit")


def _deep(depth: int, name: str) -> bytes:
    opened = "[" if not name else json.dumps({name: 0})[:-2]
    return ('{"kind": "check", "schema": 1, "results": ' + opened * (depth // len(opened))).encode()


def claims(folder: Path) -> list[Tried]:
    """All of them; the reports that they begin with need jax."""
    imported("harness.cli", "harness.report.views", "harness.report.pages.check", "harness.report.pages.diff")
    imported(
        "harness.report.html", "harness.report.junit", "harness.report.markdown", "harness.report.pages.heatmap"
    )
    reports = Reports(folder)
    return [
        Tried("a hostile report is rendered or refused", reports.documents(), reports.rendered, 1, 40),
        Tried("a damaged report is rendered or refused", DAMAGES, reports.damaged, 0.4, 40),
    ]
