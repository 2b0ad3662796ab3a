"""What the layout costs those who read and write goldens with general libraries, side by side.

    python -m tests.benchmarks.bench_xarray

- The embedded golden, as HDF5 and as Zarr: opening it (the manifest), one tap over all layers by `harness.open`,
  and `xarray.open_datatree` of the whole, which costs by the number of arrays. Beside it a tree of the same values
  with an array for each layer's tap, as they would lie without stacks.
- Writing both, without waiting for the disk, reading and verifying all of it: Zarr against HDF5.
- The arrays of the small one written and read by zarr-python alone, in its own store, against this package's Zarr.
- Reading one array of a Zarr in a fresh process, against HDF5: it imports zarr.

Everything in one run, since the machine decides the seconds; the ratios are what to read.
"""

from __future__ import annotations

import functools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray
import zarr

import harness
from harness import embedded
from harness.layout import Layout
from harness.store import Golden, open_golden, publish
from harness.store.writer import NewArray, write_golden

REPEATS = 3
H5NETCDF = {"engine": "h5netcdf"}
ZARR = {"engine": "zarr", "consolidated": False}


def timed(action: Callable[[], object], repeats: int = REPEATS) -> float:
    """The median of some runs, in seconds."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def pieces(golden: Golden) -> Iterator[NewArray]:
    """Everything of a golden, as `write_golden` takes it."""
    for path, form in Layout(golden.manifest).forms():
        value = golden._array(path)
        for slab in range(form.slabs):
            yield NewArray(path, value[slab] if form.stacked else value, slab)


def rewrite(source: Path, target: Path) -> None:
    with open_golden(source) as golden:
        write_golden(target, pieces(golden), replace(golden.manifest, arrays={}), overwrite=True)


def unstacked(source: Path, target: Path) -> None:
    """The same values in a tree with an array for each tap of each layer."""
    with open_golden(source) as golden:
        nodes: dict[str, xarray.Dataset] = {}
        for case in golden.manifest.cases:
            dims = {tap.name: tap.dims for tap in golden.manifest.taps}
            taps = {name: (dims[name], golden.tap(case.name, name)) for name in case.taps if not case.kept}
            nodes[f"/cases/{case.name}/taps"] = xarray.Dataset(taps)
    xarray.DataTree.from_dict(nodes).to_netcdf(target, engine="h5netcdf")


def by_zarr_python(source: Path, target: Path) -> tuple[float, float]:
    """Seconds to write and to read the arrays of a golden with zarr-python, a chunk for each slab."""
    with open_golden(source) as golden:
        forms = dict(Layout(golden.manifest).forms())
        values = {path: golden._array(path) for path in forms}

    def write() -> None:
        group = zarr.open_group(target, mode="w")
        for path, form in forms.items():
            chunks = (1, *form.slab) if form.stacked else form.shape
            array = group.create_array(
                path,
                shape=form.shape,
                chunks=chunks,
                dtype=form.dtype,
                compressors=None,
                dimension_names=form.dims,
            )
            for slab in range(form.slabs):
                array[slab if form.stacked else ...] = values[path][slab] if form.stacked else values[path]

    def read() -> None:
        group = zarr.open_group(target, mode="r")
        for path in forms:
            np.asarray(group[path][...])

    return timed(write, 1), timed(read, 1)


def read(path: Path) -> None:
    """Every array, each against its sha256."""
    with open_golden(path) as golden:
        for array in golden.manifest.arrays:
            golden._array(array)


def verify(path: Path) -> None:
    with open_golden(path) as golden:
        golden.verify()


def in_a_fresh_process(path: Path) -> None:
    code = "import sys; from harness.store import open_golden as g; g(sys.argv[1]).case(sys.argv[2])"
    with open_golden(path) as golden:
        case = golden.manifest.cases[0].name
    subprocess.run([sys.executable, "-c", code, str(path), case], check=True)


def against_hdf5(source: Path, folder: Path) -> None:
    """What the whole of a golden costs as HDF5, and as Zarr."""
    with open_golden(source) as golden:
        every, manifest = list(pieces(golden)), replace(golden.manifest, arrays={})
    h5, tree = folder / "one.h5", folder / "one.zarr"
    actions: dict[str, Callable[[Path], object]] = {
        "write": lambda path: write_golden(path, every, manifest, overwrite=True),
        "read": read,
        "verify": verify,
        "one case in a fresh process,": in_a_fresh_process,
    }
    for what, action in actions.items():
        base = timed(lambda act=action: act(h5))
        row(f"{what} {source.name}, {len(manifest.cases)} cases", base)
        row(f"{what} it as .zarr, against that", timed(lambda act=action: act(tree)), base)


def row(what: str, seconds: float, base: float | None = None) -> None:
    print(f"{what:<66}{seconds:>9.3f} s" + (f"{seconds / base:>9.1f} x" if base else ""))  # noqa: T201


def main() -> None:
    whole, small = embedded.golden(), embedded.directory() / "qwen2-window.h5"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rewrite(whole, folder / "whole.zarr")
        unstacked(whole, folder / "unstacked.h5")
        base = timed(lambda: xarray.open_datatree(folder / "unstacked.h5", **H5NETCDF).close(), 1)
        row("xarray.open_datatree, an array for each layer's tap, HDF5", base)
        for path, engine in ((whole, H5NETCDF), (folder / "whole.zarr", ZARR)):
            kind, opened = str(engine["engine"]), functools.partial(xarray.open_datatree, path, **engine)
            row(f"xarray.open_datatree, {kind}", timed(lambda o=opened: o().close()), base)
            row(f"open_golden, {kind}", timed(lambda p=path: open_golden(p).close()), base)
            one_tap = timed(lambda p=path: harness.open(p)["code"].q_rope)
            row(f"harness.open, one tap over all layers, {kind}", one_tap, base)
        publish._sync = lambda _: None
        for source in (whole, small):
            against_hdf5(source, folder)
        ours = timed(lambda: rewrite(small, folder / "small.zarr"))
        written, found = by_zarr_python(small, folder / "python.zarr")
        row("the arrays of that in zarr-python's own store, against ours with sha256", written, ours)
        row("read from there, against ours with sha256", found, timed(lambda: read(folder / "small.zarr")))


if __name__ == "__main__":
    main()
