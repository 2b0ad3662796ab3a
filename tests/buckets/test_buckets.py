"""Goldens in buckets of S3 and GCS: real servers and the real clients, on this machine.

pip install -e '.[test,buckets]' && pytest tests/buckets
"""

import signal
import subprocess
import sys
import textwrap
import time

import pytest

from harness import embedded
from harness.store import open_golden
from harness.store.remote import AT_ONCE, RemoteFiles
from harness.store.writer import write_golden
from harness.store.zarr3 import edition_of
from tests.buckets.copying import copy
from tests.store import small_golden

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)
CASES = {"padded": ("layers", (2, 3)), "greedy": ("logits", (1, 3))}


def small(url, seed=0, overwrite=False):
    arrays = small_golden.arrays(cases=CASES, seed=seed)
    return write_golden(url, arrays, small_golden.manifest(cases=CASES), overwrite=overwrite)


def id_of(url):
    with open_golden(url) as golden:
        golden.verify()
        return golden.id


def test_written_read_replaced_and_verified_by_the_command(url, goldens):
    first = small(url)
    assert id_of(url) == first
    second = small(url, seed=1, overwrite=True)
    assert id_of(url) == second != first
    code, out, error, _ = goldens("verify", url)
    assert (code, error) == (0, ""), error
    assert "whole" in out or "verified" in out, out
    code, out, error, _ = goldens("show", url)
    assert (code, error) == (0, ""), error
    assert second[:12] in out


def test_of_a_golden_that_was_replaced_nothing_is_left(url):
    small(url)
    for seed in (1, 2):
        small(url, seed, overwrite=True)
    files = RemoteFiles(url)
    assert {path.partition("/")[0] for path in files.paths()} == {"zarr.json", edition_of(files)}


def test_a_port_is_checked_from_the_bucket_and_only_its_case_is_read(bucket, url, goldens):
    """In float64: noise floors, of which limits are made of all cases together, are not read then."""
    source = embedded.directory() / "qwen2-window.h5"
    assert copy(source, url) == open_golden(source).id
    bucket.proxy.clear()
    weights = str(embedded.directory() / "qwen2-window")
    arguments = ("check", url, "--weights", weights, "--precision", "float64", "--mode", "both")
    with open_golden(source) as golden:
        entry = min(golden.manifest.cases, key=lambda case: case.shape[1])
        mine = f"/cases/{entry.name}/"
        arrays = {path: one for path, one in golden.manifest.arrays.items() if f"/{path}".startswith(mine)}
        taps = [one for path, one in arrays.items() if "/noise/" not in path]
        size = sum(golden._array(path).nbytes for path in arrays if "/noise/" not in path)
        manifest = golden._manifest_size
    code, _, error, _ = goldens(*arguments, "--case", entry.name)
    assert code == 0, error
    reads = [one for one in bucket.proxy.requests if one.method == "GET"]
    outside = [one.path for one in reads if "cases" in one.path and entry.name not in one.path]
    assert not outside
    slabs = sum(one.slabs for one in taps)
    # Root, manifest (two), and of each array its document and its slabs, once; gcsfs may ask for sizes.
    assert slabs <= len(reads) <= slabs + len(taps) + 6
    assert size <= bucket.proxy.received() <= size + manifest + len(taps) * 2000 + 10_000
    assert 2 < bucket.proxy.most_at_once() <= AT_ONCE


def test_verifying_reads_every_byte_once_many_at_a_time(bucket, url):
    small(url)
    files = RemoteFiles(url)
    blobs = len(list(files.paths()))
    bucket.proxy.clear()
    assert id_of(url)
    reads = [one for one in bucket.proxy.requests if one.method == "GET"]
    # The root is read to find the edition and again as a document; and there is the listing.
    assert blobs <= len(reads) <= blobs + 4
    assert 4 < bucket.proxy.most_at_once() <= AT_ONCE


def test_what_is_read_many_at_a_time_is_verified_all_the_same(bucket, url):
    from harness.errors import GoldenError

    small(url)
    files = RemoteFiles(url)
    name = next(path for path in files.paths() if "/taps/" in path and path.rpartition("/")[2].startswith("c."))
    data = files.read(name, 10**6)
    files.write(name, data[:-1] + bytes([data[-1] ^ 1]))
    with open_golden(url) as golden, pytest.raises(GoldenError, match="sha256") as caught:
        golden.verify()
    assert name.rpartition("/")[0] in caught.value.where


@pytest.mark.parametrize("share", [0.3, 0.95])
def test_a_kill_in_the_middle_of_a_replacement_leaves_the_old_golden(bucket, url, share):
    before = small(url)
    puts = [0]

    def count(method, path, number):
        puts[0] += method in ("PUT", "POST")
        return 0.02

    bucket.proxy.fault = count
    total = len(list(RemoteFiles(url).paths()))
    code = """
        import sys
        from tests.buckets.test_buckets import small
        small(sys.argv[1], seed=1, overwrite=True)
        """
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), url])
    started = time.monotonic()
    while puts[0] < share * total:
        assert writer.poll() is None and time.monotonic() < started + 60
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    bucket.proxy.clear()
    assert id_of(url) == before
    after = small(url, seed=1, overwrite=True)
    assert id_of(url) == after
