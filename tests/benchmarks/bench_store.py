"""What a golden costs beside the bare arrays: 35 MB of float32 in thousands of slabs, and in a few.

    python -m tests.benchmarks.bench_store

Everything in one run, since the machine decides the seconds; the ratio to np.save and np.load is what to
read. The golden's columns include sha256, publishing (fsync or sync), and the manifest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from harness.golden import Manifest
from harness.store import open_golden
from harness.store.writer import NewArray, write_golden
from tests.store import small_golden

MEGABYTES = 35
REPEATS = 5
HEADS = ("slabs", "what", "write", "x np.save", "open", "read", "x np.load")


def model(layers: int) -> dict[str, object]:
    return small_golden.config(
        num_hidden_layers=layers,
        hidden_size=96,
        num_attention_heads=6,
        num_key_value_heads=2,
        intermediate_size=160,
        vocab_size=256,
    )


def sample(layers: int) -> tuple[list[NewArray], Manifest]:
    """About 35 MB in one case, its length chosen to fit."""
    config = model(layers)

    def arrays(length: int) -> list[NewArray]:
        made = small_golden.arrays(config, {"one": ("ops", (1, length))})
        return [
            dataclasses.replace(new, array=new.array.astype("f4")) if new.array.dtype == "f8" else new
            for new in made
        ]

    length = 1
    while sum(new.array.nbytes for new in arrays(length)) < MEGABYTES * 1e6:
        length = max(length + 1, int(length * 1.25))
    return arrays(length), small_golden.manifest(config, {"one": ("ops", (1, length))}, truth_dtype="float32")


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def bare(arrays: list[NewArray], folder: Path) -> tuple[float, float, float]:
    folder.mkdir()

    def save() -> None:
        for index, new in enumerate(arrays):
            np.save(folder / f"{index}.npy", new.array)

    def load() -> None:
        for index in range(len(arrays)):
            np.load(folder / f"{index}.npy")

    return timed(save), 0.0, timed(load)


def hashed(arrays: list[NewArray], folder: Path) -> tuple[float, float, float]:
    seconds = timed(lambda: [hashlib.sha256(new.array.tobytes()).digest() for new in arrays])
    return seconds, 0.0, seconds


def golden(suffix: str, manifest: Manifest) -> Callable[..., tuple[float, float, float]]:
    def measure(arrays: list[NewArray], folder: Path) -> tuple[float, float, float]:
        folder.mkdir()
        path = folder / f"golden{suffix}"
        write = timed(lambda: write_golden(path, arrays, manifest))
        opening = timed(lambda: open_golden(path).close())
        with open_golden(path) as opened:
            taps = opened.manifest.case("one").taps
            read = timed(lambda: [opened.tap("one", tap) for tap in taps])
        return write, opening, read

    return measure


def main() -> None:
    print(("{:>8}" + "{:>14}" + "{:>11}" * 5).format(*HEADS))  # noqa: T201
    for layers in (115, 1):
        arrays, manifest = sample(layers)
        subjects = {
            "np.save/load": bare,
            "sha256 alone": hashed,
            "HDF5": golden(".h5", manifest),
            "Zarr": golden(".zarr", manifest),
        }
        base: tuple[float, ...] = ()
        for name, measure in subjects.items():
            with tempfile.TemporaryDirectory() as folder:
                runs = [measure(arrays, Path(folder) / str(index)) for index in range(REPEATS)]
            write, opening, read = (statistics.median(column) for column in zip(*runs, strict=True))
            base = base or (write, read)
            row = f"{len(arrays):>8}{name:>14}{write:>10.3f}s{write / base[0]:>11.1f}"
            print(f"{row}{opening:>10.3f}s{read:>10.3f}s{read / base[1]:>11.1f}")  # noqa: T201


if __name__ == "__main__":
    main()
