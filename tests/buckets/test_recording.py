"""Recorded straight into a bucket by the command, replaced there, and killed on the way.

pip install -e '.[test,buckets,record]' && pytest tests/buckets
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import embedded
from tests.buckets.test_buckets import id_of, small

pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[test,buckets,record]'")

CORPUS = """
[[prompt]]
name = "hello"
text = "Hello"
why = "one token"

[[prompt]]
name = "digits"
text = "1 2 3"
why = "a few"
"""


@pytest.fixture
def recording(tmp_path, url):
    """The words of a command that records two prompts to the bucket; its unfinished work lies in `tmp_path`."""
    corpus = tmp_path / "corpus.toml"
    corpus.write_text(CORPUS)
    model = str(embedded.directory() / "qwen2-tiny")
    return ("record", "--model", model, "--corpus", str(corpus), "--level", "layers", "--out", url)


@pytest.fixture
def goldens(goldens, tmp_path, monkeypatch):
    """It runs where unfinished work may lie."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.chdir(tmp_path)
    return goldens


def test_recorded_twice_it_has_one_id_and_a_port_is_checked_from_there(recording, url, goldens, tmp_path):
    code, first, error, _ = goldens(*recording)
    assert code == 0, error
    assert id_of(url) == first.strip()
    code, _, error, _ = goldens(*recording)  # what is there is not replaced unasked
    assert code == 2 and "--force replaces it" in error, error
    code, second, error, _ = goldens(*recording, "--force")
    assert (code, second) == (0, first), error
    assert not list(tmp_path.glob("*.partial"))
    weights = recording[recording.index("--model") + 1]
    code, out, error, _ = goldens("check", url, "--weights", weights, "--precision", "float64,bfloat16")
    assert code == 0, out + error


@pytest.mark.parametrize("moment", ["while it computes", "while it writes"])
def test_killed_it_leaves_the_old_golden_and_goes_on(recording, bucket, url, goldens, tmp_path, moment):
    before = small(url)
    puts, done = [0], []

    def count(method, path, number):
        puts[0] += method in ("PUT", "POST")
        return 0.02

    bucket.proxy.clear()
    bucket.proxy.fault = count
    writer = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", *recording, "--force"], stderr=subprocess.DEVNULL
    )
    started = time.monotonic()
    while puts[0] < 20 if moment == "while it writes" else len(done) < 4:
        assert writer.poll() is None and time.monotonic() < started + 90
        done = list(tmp_path.glob("golden.zarr.partial/units/*/*.safetensors"))
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    bucket.proxy.clear()
    assert id_of(url) == before
    code, out, error, _ = goldens(*recording, "--force")
    assert code == 0, error
    assert "going on with unfinished work" in error
    assert id_of(url) == out.strip() != before
