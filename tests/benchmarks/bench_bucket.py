"""A golden in a bucket beside one on the disk: opening, reading one case, verifying everything.

    python -m tests.benchmarks.bench_bucket [GOLDEN]

Everything in one run; seconds are ratios to the local Zarr. Servers are moto (S3) and gcp-storage-emulator (GCS),
on this machine and written in Python: their seconds say what the clients and they cost, and nothing of a network.
The requests and bytes are those of any bucket. In the second row of each the proxy holds every answer back for
20 ms, as a bucket in the same region does; in the third, blobs are fetched one after the other besides.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness import embedded
from harness.store import Golden, open_golden
from harness.store.remote import AT_ONCE, RemoteFiles
from tests.buckets.copying import copy
from tests.buckets.servers import Proxy, serving

ROUND_TRIP = 0.02
HEADS = ("where", "open", "requests", "kB", "one case", "requests", "kB", "verify", "requests", "kB")


def read_case(golden: Golden) -> None:
    """All that a check reads of one case: the longest."""
    entry = max(golden.manifest.cases, key=lambda case: case.shape[1])
    golden.case(entry.name)
    for tap in entry.taps:
        golden.tap(entry.name, tap)


def measure(path: str, proxy: Proxy | None) -> list[tuple[float, int, int]]:
    """Seconds, requests and bytes of opening, of one case, and of everything."""
    rows: list[tuple[float, int, int]] = []

    def timed(action: Callable[[], object]) -> None:
        if proxy is not None:
            proxy.requests.clear()
        start = time.perf_counter()
        action()
        seconds = time.perf_counter() - start
        rows.append((seconds, len(proxy.requests), proxy.received()) if proxy else (seconds, 0, 0))

    open_golden(path).close()  # imports and connections are not what is measured
    timed(lambda: open_golden(path).close())
    with open_golden(path) as golden:
        timed(lambda: read_case(golden))
    with open_golden(path) as golden:
        timed(golden.verify)
    return rows


def shown(name: str, rows: list[tuple[float, int, int]], base: list[tuple[float, int, int]]) -> str:
    cells = [
        f"{seconds / unit:>9.1f} {requests or '-':>9} {received // 1000 or '-':>7}"
        for (seconds, requests, received), (unit, _, _) in zip(rows, base, strict=True)
    ]
    return f"{name:<22}" + "".join(cells)


def main() -> None:
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else embedded.directory() / "qwen2-window.h5"
    heads = (HEADS[index : index + 3] for index in (1, 4, 7))
    print(f"{HEADS[0]:<22}" + "".join("{:>9} {:>9} {:>7}".format(*three) for three in heads))  # noqa: T201
    with tempfile.TemporaryDirectory() as folder:
        local = f"{folder}/golden.zarr"
        copy(source, local)
        base = measure(local, None)
        print(shown("HDF5", measure(str(source), None), base))  # noqa: T201
        print(shown("Zarr", base, base))  # noqa: T201
        for kind in ("s3", "gcs"):
            with serving(kind) as bucket:
                os.environ.update(bucket.environment)
                url = bucket.url("golden.zarr")
                copy(source, url)
                print(shown(kind, measure(url, bucket.proxy), base))  # noqa: T201
                bucket.proxy.fault = lambda *_: ROUND_TRIP
                print(shown(f"{kind}, 20 ms away", measure(url, bucket.proxy), base))  # noqa: T201
                RemoteFiles.at_once = 1
                print(shown(f"{kind}, one by one", measure(url, bucket.proxy), base))  # noqa: T201
                RemoteFiles.at_once = AT_ONCE
        print("seconds of the local Zarr:", *(f"{seconds:.3f}" for seconds, _, _ in base))  # noqa: T201


if __name__ == "__main__":
    main()
