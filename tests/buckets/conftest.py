"""A bucket of either kind, and a process of its own in which `goldens` runs against it."""

import importlib.util
import os
import subprocess
import sys
import time

import pytest

from tests.buckets import servers

PACKAGES = ("moto", "flask", "flask_cors", "s3fs", "gcsfs", "gcp_storage_emulator")
MISSING = next((name for name in PACKAGES if importlib.util.find_spec(name) is None), "")
if not MISSING:
    # gcsfs reads it when it is imported; the emulator lacks the API by which it asks what kind of bucket this is.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


def pytest_collection_modifyitems(items):
    for item in items:
        if MISSING and "buckets" in item.path.parts:
            reason = f"{MISSING} is not installed: pip install -e '.[test,buckets]'"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", params=["s3", "gcs"])
def server(request):
    with servers.serving(request.param) as bucket:
        yield bucket


@pytest.fixture
def bucket(server, monkeypatch, request):
    """The bucket, reached as a user would reach it; every test has a folder of its own in it."""
    import fsspec

    server.proxy.clear()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    fsspec.get_filesystem_class(servers.KINDS[server.kind]).clear_instance_cache()
    yield server
    server.proxy.clear()


@pytest.fixture
def url(bucket, request):
    return bucket.url(f"{abs(hash(request.node.name)):x}/golden.zarr")


@pytest.fixture
def goldens(tmp_path, bucket):
    """Runs `goldens ...` in a process of its own: its exit code, stdout, stderr, seconds."""

    def run(*arguments, **environment):
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "harness.cli", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "HOME": str(tmp_path), "COLUMNS": "200", **environment},
        )
        return done.returncode, done.stdout, done.stderr, time.monotonic() - start

    return run
