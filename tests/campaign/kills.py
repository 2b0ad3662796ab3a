"""Recordings and writes that are killed, interrupted, out of room, or two at once.

Claims: the golden that was there is never lost or half-replaced; the next run gives the golden that an undisturbed
one gives; nothing else is left over then.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from harness import embedded
from harness.errors import HarnessError
from harness.store import open_golden, publish
from harness.store.publish import interrupted
from harness.store.writer import write_golden
from tests.campaign.faults import KINDS, Faults
from tests.campaign.forked import Ended, forked, goldens, held, imported
from tests.campaign.inputs import has_torch
from tests.campaign.trials import BrokenClaimError, Tried
from tests.store import small_golden

STOPPED = (2, 130, 143, -signal.SIGKILL, -signal.SIGTERM)
PATIENCE = 60  # of one recording, on a machine that is busy
CORPUS = """
[[prompt]]
name = "a"
text = "Hello"
why = "one token"
[[generation]]
name = "b"
text = "Hi"
tokens = 1
why = "what is generated is work as well"
"""


@dataclass(frozen=True)
class Fault:
    """What happens to one run.

    Attributes:
        at: of the calls that an undisturbed run makes, from 0 to 1.
        there: whether a golden was there before.
        exchange: whether the file system can exchange two names.
    """

    kind: str
    at: float
    suffix: str
    there: bool = True
    exchange: bool = True


@st.composite
def faults(draw: Any) -> Fault:
    kind = draw(st.sampled_from([*KINDS, "file limit"]))
    suffix = draw(st.sampled_from(["h5", "zarr"]))
    return Fault(kind, draw(st.floats(0, 1)), suffix, draw(st.booleans()), draw(st.booleans()))


class Target:
    """A golden that is written anew in every trial.

    Attributes:
        write: writes the new golden to a path, in a child; its exit code.
        calls: by suffix, how many calls of an undisturbed run change the file system.
    """

    def __init__(self, folder: Path, old: Callable[[Path], object], write: Callable[[Path], int]) -> None:
        self.folder, self.write = folder, write
        self.ids: dict[str, tuple[str, str]] = {}
        self.calls: dict[str, int] = {}
        (folder / "old").mkdir(parents=True)
        for suffix in ("h5", "zarr"):
            kept = self._kept(suffix)
            held(forked(lambda kept=kept: bool(old(kept)) * 0, PATIENCE), (0,))
            path = self.fresh(suffix)
            before = _id(path)
            count = folder / "count"

            def counted(path: Path = path, count: Path = count) -> int:
                found = Faults(path.parent, None, "").install()
                code = write(path)
                count.write_text(str(len(found.calls)))
                return code

            held(forked(counted, PATIENCE), (0,))
            self.calls[suffix] = int(count.read_text())
            self.ids[suffix] = before, _id(path)
            assert len({*self.ids[suffix]}) == 2, "the old golden and the new one can be told apart"

    def _kept(self, suffix: str) -> Path:
        return self.folder / "old" / f"a.{suffix}"

    def fresh(self, suffix: str, there: bool = True) -> Path:
        """A folder with the old golden in it, or with nothing."""
        folder = self.folder / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        path, kept = folder / f"a.{suffix}", self._kept(suffix)
        if there:
            (shutil.copytree if kept.is_dir() else shutil.copyfile)(kept, path)
        return path

    def disturbed(self, fault: Fault) -> None:
        """One run with a fault, and one without."""
        path = self.fresh(fault.suffix, fault.there)
        at = min(int(fault.at * self.calls[fault.suffix]), self.calls[fault.suffix] - 1)

        def run() -> int:
            if not fault.exchange:
                publish._exchange = lambda one, other: False  # type: ignore[assignment]
            if fault.kind == "file limit":
                import resource

                room = 1 + int(fault.at * 50_000)
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
            else:
                Faults(path.parent, at, fault.kind).install()
            return self.write(path)

        ended = held(forked(run, PATIENCE), (0, *STOPPED))
        self.is_whole(path, fault.suffix, fault.there, ended)
        self.goes_on(path, fault.suffix)

    def killed_after(self, trial: tuple[float, str]) -> None:
        """A run that is killed at a moment, and one that is not."""
        seconds, suffix = trial
        path = self.fresh(suffix)
        ended = forked(lambda: self.write(path), seconds)
        self.is_whole(path, suffix, True, ended)
        self.goes_on(path, suffix)

    def two_at_once(self, trial: tuple[float, str, bool]) -> None:
        """Two runs, the second a moment later; the first may be killed meanwhile."""
        seconds, suffix, kill = trial
        path = self.fresh(suffix)
        first = os.fork()
        if first == 0:
            forked(lambda: self.write(path), seconds * 2 if kill else PATIENCE)
            os._exit(0)
        time.sleep(seconds)
        second = held(forked(lambda: self.write(path), PATIENCE), (0, 2))
        os.waitpid(first, 0)
        self.is_whole(path, suffix, True, second)
        if not kill and _id(path) != self.ids[suffix][1]:
            raise BrokenClaimError(f"neither of two recordings came to its end; the second: {second}")
        self.goes_on(path, suffix)

    def is_whole(self, path: Path, suffix: str, there: bool, ended: Ended) -> None:
        """What lies there now is the old golden or the new one."""
        old, new = self.ids[suffix]
        aside = interrupted(path)
        if aside is not None:
            path = aside
        if not there and not path.exists():
            return
        try:
            found = _id(path)
        except HarnessError as refusal:
            raise BrokenClaimError(f"lost: {refusal}\nafter {ended}") from None
        if found not in ((old, new) if there else (new,)) or (ended.code == 0 and found != new):
            raise BrokenClaimError(f"{found} lies there, after {ended}")

    def goes_on(self, path: Path, suffix: str) -> None:
        """The next run is as if nothing had been."""
        held(forked(lambda: self.write(path), PATIENCE), (0,))
        if _id(path) != self.ids[suffix][1]:
            raise BrokenClaimError("the next run gave another golden")
        left = sorted(one.name for one in path.parent.iterdir() if one != path)
        if left:
            raise BrokenClaimError(f"left over: {', '.join(left)}")


def _id(path: Path) -> str:
    """Of a golden that is whole."""
    with open_golden(path) as golden:
        golden.verify()
        return golden.id


def written(folder: Path) -> Target:
    """A golden that is published and nothing else: no torch, so every call of it can be tried."""
    cases = small_golden.FEW
    old, new = (tuple(small_golden.arrays(cases=cases, seed=seed)) for seed in (0, 1))
    manifest = small_golden.manifest(cases=cases)

    def write(path: Path) -> int:
        try:
            write_golden(path, new, manifest, overwrite=True)
        except HarnessError as refusal:
            if not refusal.hint:
                raise BrokenClaimError(f"no hint: {refusal}") from None
            return 2
        except KeyboardInterrupt:
            return 130
        return 0

    return Target(folder, lambda path: write_golden(path, old, manifest), write)


def recorded(folder: Path) -> Target:
    """A recording of a checkpoint of one layer."""
    imported("transformers.models.qwen2.modeling_qwen2", "harness.record.progress", "harness.record.recorder")
    folder.mkdir()
    model = one_layer(folder / "model")
    corpus = folder / "corpus.toml"
    corpus.write_text(CORPUS)
    every = ("record", "--model", model, "--corpus", corpus, "--force", "--out")
    return Target(
        folder,
        lambda path: goldens(*every, path, "--level", "logits", "--case", "a"),
        lambda path: goldens(*every, path),
    )


def one_layer(directory: Path) -> Path:
    """A copy of the embedded checkpoint with its first layer alone."""
    shutil.copytree(embedded.directory() / "qwen2-tiny", directory)
    config = json.loads((directory / "config.json").read_text()) | {"num_hidden_layers": 1}
    (directory / "config.json").write_text(json.dumps(config))
    weights = directory / "model.safetensors"
    tensors = {
        name: tensor for name, tensor in load_file(weights).items() if ".layers." not in name or ".0." in name
    }
    weights.unlink()
    save_file(tensors, weights, {"format": "pt"})
    return directory


def claims(folder: Path) -> list[Tried]:
    """Those of a recording need torch."""
    target = written(folder / "written")
    kills = [kind for kind in KINDS if kind.startswith("kill")]
    each = [
        Fault(kind, (call + 0.5) / target.calls[suffix], suffix, exchange=exchange)
        for suffix in target.calls
        for call in range(target.calls[suffix])
        for kind in kills
        for exchange in ((True, False) if suffix == "zarr" else (True,))
    ]
    suffixes = st.sampled_from(["h5", "zarr"])
    made = [
        Tried("publishing, killed at each of its calls: the old golden or the new", each, target.disturbed),
        Tried("publishing with any fault at any call: the same", faults(), target.disturbed),
        Tried(
            "two writers at once: one golden, whole",
            st.tuples(st.floats(0, 0.1), suffixes, st.booleans()),
            target.two_at_once,
            share=0.2,
        ),
    ]
    if has_torch():
        recording = recorded(folder / "recorded")
        made += [
            Tried(
                "a recording with any fault at any call: it goes on, the same id, nothing left",
                faults(),
                recording.disturbed,
                share=0.3,
                seconds=3 * PATIENCE,
            ),
            Tried(
                "a recording killed at any moment: the same",
                st.tuples(st.floats(0, 2), suffixes),
                recording.killed_after,
                share=0.2,
                seconds=3 * PATIENCE,
            ),
            Tried(
                "two recordings at once: one golden, whole",
                st.tuples(st.floats(0, 1), suffixes, st.booleans()),
                recording.two_at_once,
                share=0.05,
                seconds=3 * PATIENCE,
            ),
        ]
    return made
