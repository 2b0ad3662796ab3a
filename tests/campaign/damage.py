"""Damage of every kind of file: bytes flipped, files cut off, blocks zeroed, doubled or moved, files exchanged.

Claim: it is seen, or it has changed no value that anybody reads.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from harness import embedded
from harness.architecture import difference, read_config
from harness.bare_tokenizer import load, token_ids
from harness.checkpoint import Checkpoint
from harness.corpus import load_corpus
from harness.errors import HarnessError
from harness.golden import encode
from harness.labelled import LabelledGolden
from harness.run.preflight import preflight
from harness.store import open_golden
from tests.campaign.forked import forked, goldens, held, imported
from tests.campaign.inputs import has_torch
from tests.campaign.kills import PATIENCE, Target, recorded
from tests.campaign.trials import BrokenClaimError, Tried
from tests.store import places

KINDS = ("flip", "byte", "cut", "zero", "ones", "double", "move", "exchange", "other file", "gone", "append")
WRONG, SAME, REFUSED = 73, 0, 2


@dataclass(frozen=True)
class Damage:
    """What is done to one of some files.

    Attributes:
        file, at, to: where, each from 0 to 1.
        length: in bytes.
    """

    kind: str
    file: float
    at: float
    to: float
    length: int

    def apply(self, files: list[Path]) -> Path:
        """Damage one of the files; which of them."""
        path = files[min(int(self.file * len(files)), len(files) - 1)]
        data = bytearray(path.read_bytes())
        other = files[min(int(self.to * len(files)), len(files) - 1)]
        if self.kind == "gone":
            path.unlink()
            return path
        if self.kind == "exchange":
            content = other.read_bytes()
            other.write_bytes(data)
            path.write_bytes(content)
            return path
        path.write_bytes(other.read_bytes() if self.kind == "other file" else self._damaged(data))
        return path

    def _damaged(self, data: bytearray) -> bytes:
        if not data:
            return b"\0" * self.length
        at, to = (min(int(place * len(data)), len(data) - 1) for place in (self.at, self.to))
        block = slice(at, min(at + self.length, len(data)))
        size = block.stop - at
        if self.kind == "flip":
            data[at] ^= 1 << self.length % 8
        elif self.kind == "byte":
            data[at] = self.length % 256
        elif self.kind == "cut":
            del data[at:]
        elif self.kind in ("zero", "ones"):
            data[block] = (b"\0" if self.kind == "zero" else b"\xff") * size
        elif self.kind == "double":
            data[at:at] = data[block]
        elif self.kind == "move":
            moved = data[block]
            data[to : to + size] = moved[: max(len(data) - to, 0)]
        else:
            data += data[block]
        return bytes(data)


PLACE = st.floats(0, 1)
DAMAGES = st.builds(
    Damage,
    st.sampled_from(["flip", "flip", "byte", *KINDS]),
    PLACE,
    PLACE,
    PLACE,
    st.sampled_from([1, 2, 8, 64, 512, 4096]),
)


def contents(path: Path) -> str:
    """A digest of every value that can be read from a golden, as arrays and with their labels."""
    digest = hashlib.sha256()
    with open_golden(path) as golden:
        digest.update(encode(golden.manifest))
        for case in golden.manifest.cases:
            inputs = golden.case(case.name)
            for array in (inputs.input_ids, inputs.positions, inputs.mask):
                digest.update(array.tobytes())
            for tap in case.taps:
                digest.update(golden.tap(case.name, tap).tobytes())
        for name in golden.manifest.arrays:
            digest.update(golden._array(name).tobytes())
    with LabelledGolden(path) as labelled:
        for case in labelled.values():
            array = case["logits"]
            digest.update(np.asarray(array.values).tobytes() + repr(array.dims).encode())
    return digest.hexdigest()


class Damaged:
    """Files to damage, and what is read from them while they are whole."""

    def __init__(self, folder: Path) -> None:
        self.whole, self.trial = folder / "whole", folder / "trial"
        self.tiny = embedded.directory() / "qwen2-tiny"
        self.golden = open_golden(embedded.golden())
        self.whole.mkdir()
        for kind in ("h5", "zarr"):
            place = places.make(kind, self.whole)
            place.few = True
            place.write()
        self.contents = {kind: contents(self.whole / f"small.{kind}") for kind in ("h5", "zarr")}

    def copied(self, source: Path) -> tuple[Path, list[Path]]:
        """A copy to damage, and its files."""
        shutil.rmtree(self.trial, ignore_errors=True)
        self.trial.mkdir()
        target = self.trial / source.name
        if source.is_file():
            shutil.copyfile(source, target)
            return target, [target]
        shutil.copytree(source, target)
        return target, sorted(path for path in target.rglob("*") if path.is_file())

    def of_golden(self, kind: str) -> Callable[[Damage], bool]:
        """Claim: a golden is read as it was, or refused; `verify` sees all of it."""
        expected = self.contents[kind]

        def action(damage: Damage) -> bool:
            path, files = self.copied(self.whole / f"small.{kind}")
            damage.apply(files)
            size = sum(file.stat().st_size for file in files if file.exists())

            def read() -> int:
                return SAME if contents(path) == expected else WRONG

            return judged(read, size, path)

        return action

    def checkpoint(self, damage: Damage) -> bool:
        """Claim: what a check takes for the golden's checkpoint is, in weights, config and token ids."""
        directory, files = self.copied(self.tiny)
        damage.apply(files)
        entry = self.golden.manifest.case("hello")

        def read() -> int:
            config = preflight(self.golden, directory, [entry])
            if list(difference(self.golden.manifest.model.config, config)):
                return WRONG
            found, expected = Checkpoint(directory), Checkpoint(self.tiny)
            same = all(
                found.read(name).tobytes() == expected.read(name).tobytes()
                for name in self.golden.manifest.model.parameters
            )
            ids = [token_ids(load(one)[0], entry.text, str(one)) for one in (directory, self.tiny)]
            return SAME if same and ids[0] == ids[1] and read_config(directory) == config else WRONG

        return judged(read, sum(file.stat().st_size for file in files if file.exists()))

    def corpus(self, damage: Damage) -> bool:
        """Claim: another corpus has another digest, or is refused."""
        source = embedded.directory() / "corpus.toml"
        path, files = self.copied(source)
        damage.apply(files)

        def read() -> int:
            found, whole = load_corpus(path), load_corpus(source)
            same = found.select([]) == whole.select([])
            return WRONG if found.digest == whole.digest and not same else SAME

        return judged(read, 1 << 20)


def judged(read: Callable[[], int], size: int, golden: Path | None = None) -> bool:
    """Read in a child: the same values, or a refusal in few words with a hint; whether it was refused.

    Args:
        golden: which `verify` and `show` read as well; what is refused does not verify.
    """

    def action() -> int:
        try:
            code = read()
        except HarnessError as refusal:
            print(refusal)  # noqa: T201
            code = REFUSED if refusal.hint else WRONG
        codes = [goldens(command, golden) for command in ("verify", "show") if golden is not None]
        if set(codes) - {0, 2} or (codes and code == REFUSED and codes[0] == 0):
            raise BrokenClaimError(f"read: {code}; verify, show: {codes}")
        return code or max(codes, default=0)

    ended = held(forked(action), (SAME, REFUSED), size)
    if len(ended.out) > 20_000:
        raise BrokenClaimError(f"{len(ended.out):,} characters: {ended.out[:300]}")
    return ended.code == REFUSED


def unfinished(target: Target) -> Callable[[tuple[Damage, float]], None]:
    """Claim: of unfinished work that is damaged, nothing wrong goes into the golden."""

    def action(trial: tuple[Damage, float]) -> None:
        damage, seconds = trial
        path = target.fresh("h5")
        forked(lambda: target.write(path), seconds)
        work = path.with_name(f"{path.name}.partial")
        files = sorted(one for one in work.rglob("*") if one.is_file())
        if files:
            damage.apply(files)
        ended = held(forked(lambda: target.write(path), PATIENCE), (0, 2))
        if ended.code == 2:  # told to run it again
            target.is_whole(path, "h5", True, ended)
        target.goes_on(path, "h5")

    return action


def claims(folder: Path) -> list[Tried]:
    """Those of unfinished work need torch."""
    imported("xarray", "rich.progress", "harness.cli", "harness.cli.console", "harness.report.pages.golden")
    damaged = Damaged(folder)
    made = [
        Tried("damage of an HDF5 golden: seen, or harmless", DAMAGES, damaged.of_golden("h5"), seconds=30),
        Tried("damage of a Zarr golden: the same", DAMAGES, damaged.of_golden("zarr"), seconds=30),
        Tried("damage of a checkpoint, config or tokenizer: the same", DAMAGES, damaged.checkpoint),
        Tried("damage of a corpus: the same", DAMAGES, damaged.corpus),
    ]
    if has_torch():
        work = unfinished(recorded(folder / "recorded"))
        trials = st.tuples(DAMAGES, st.floats(0.2, 2))
        name = "damage of unfinished work: the next run gives the same id"
        made.append(Tried(name, trials, work, share=0.1, seconds=4 * PATIENCE))
    return made
