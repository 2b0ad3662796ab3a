"""What goes wrong with buckets: each is one clear refusal, in time. What the libraries' retries mend is mended."""

import gc

import pytest

from harness.errors import GoldenError
from harness.store import open_golden
from harness.store import remote as remote_module
from harness.store.remote import RemoteFiles
from harness.store.writer import check_writable
from tests.buckets.servers import CUT, KINDS
from tests.buckets.test_buckets import id_of, small

# The clients leave connections open that the proxy has cut; when they are collected is no matter of the test.
pytestmark = pytest.mark.filterwarnings(
    "ignore:coroutine:RuntimeWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::pytest.PytestUnhandledThreadExceptionWarning",
)
SOON = 25  # seconds of a whole process: ten for the first answer, and Python's own start on a busy machine
NOWHERE = "http://127.0.0.1:9"  # nobody listens at this port


def refused(done, *words):
    code, out, error, seconds = done
    assert code == 2, (out, error)
    assert "Traceback" not in out + error
    for word in ("where:", "hint:", *words):
        assert word in out + error, error
    assert seconds < SOON, seconds


def test_a_bucket_that_does_not_exist(bucket, goldens):
    url = bucket.url("golden.zarr", bucket="no-such-bucket")
    refused(goldens("verify", url), "no such bucket")
    with pytest.raises(GoldenError, match="no such bucket"):
        check_writable(url, overwrite=True)
    with pytest.raises(GoldenError, match="no such bucket"):
        small(url)
    with pytest.raises(GoldenError, match="no such bucket"):  # and none was made on the way
        open_golden(url)


def test_a_golden_that_does_not_exist_in_a_bucket_that_does(url, goldens):
    refused(goldens("verify", url), "no manifest")


def test_missing_credentials(bucket, goldens, monkeypatch, url):
    """On a machine that is in no cloud: nobody answers for its own credentials."""
    nobody = {
        "AWS_ACCESS_KEY_ID": "",
        "AWS_SECRET_ACCESS_KEY": "",
        "AWS_EC2_METADATA_DISABLED": "true",
        "STORAGE_EMULATOR_HOST": "",
        "GCE_METADATA_HOST": "127.0.0.1:9",
    }
    name = {"s3": "AWS_ACCESS_KEY_ID", "gcs": "GOOGLE_APPLICATION_CREDENTIALS"}[bucket.kind]
    refused(goldens("verify", url, **nobody), "credentials", name)


@pytest.mark.parametrize("status", [401, 403])
def test_credentials_that_are_not_enough(bucket, url, goldens, status):
    bucket.proxy.fault = lambda *_: status
    refused(goldens("verify", url), "refuses access", "AWS_" if bucket.kind == "s3" else "GOOGLE_")


def test_an_endpoint_where_nobody_listens(bucket, url, goldens):
    name = {"s3": "AWS_ENDPOINT_URL", "gcs": "STORAGE_EMULATOR_HOST"}[bucket.kind]
    refused(goldens("verify", url, **{name: NOWHERE}), "endpoint")


def test_a_server_that_accepts_and_never_answers(bucket, url, goldens):
    bucket.proxy.fault = lambda *_: 60.0
    refused(goldens("verify", url), "does not answer", "within 10 s")


@pytest.mark.parametrize("status", [503])
def test_a_server_that_always_fails_ends_in_a_refusal(bucket, url, goldens, status):
    bucket.proxy.fault = lambda *_: status
    refused(goldens("verify", url))


@pytest.mark.parametrize("fault", [503, CUT, 0.3])
def test_every_nineteenth_request_fails_and_the_librarys_retries_mend_it(bucket, url, fault):
    """Writing and reading; what came in the end is verified."""
    bucket.proxy.fault = lambda method, path, number: fault if number % 19 == 9 else None
    first = small(url)
    assert id_of(url) == first


def test_a_server_that_dies_while_a_golden_is_read_ends_in_a_refusal(bucket, url, monkeypatch):
    small(url)
    monkeypatch.setattr(remote_module, "ANSWER", 2.0)
    with open_golden(url) as golden:
        bucket.proxy.fault = lambda *_: 30.0
        with pytest.raises(GoldenError, match="does not answer") as caught:
            golden.verify()
    assert caught.value.where == url
    del caught  # its traceback holds the calls
    gc.collect()  # what fsspec had begun and not awaited is let go of here, where its warning is ignored


def test_a_blob_that_is_longer_than_it_can_be_is_not_fetched(bucket, url):
    small(url)
    RemoteFiles(url).write("manifest/zarr.json", b" " * 10**6)
    bucket.proxy.clear()
    with pytest.raises(GoldenError, match="longer than it can be"):
        open_golden(url)
    assert bucket.proxy.received() < 10**5


def test_the_hints_name_what_a_user_of_that_cloud_sets():
    assert set(remote_module.CREDENTIALS) == set(KINDS.values())
