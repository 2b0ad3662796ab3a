"""What is particular about URLs: packages that may be missing, and a store that cannot rename."""

import subprocess
import sys
import textwrap

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from harness.errors import GoldenError
from harness.store import check_writable, open_golden, write_golden
from harness.store.files import RemoteFiles
from tests.store import small_golden
from tests.store.test_store import refusal


@pytest.fixture
def url():
    yield "memory://bucket/small.zarr"
    MemoryFileSystem.store.clear()


@pytest.mark.parametrize("protocol", ["gs", "s3"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(protocol, monkeypatch):
    monkeypatch.setitem(sys.modules, {"gs": "gcsfs", "s3": "s3fs"}[protocol], None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    url = f"{protocol}://bucket/small.zarr"
    for attempt in (lambda: open_golden(url), lambda: check_writable(url, False)):
        with pytest.raises(GoldenError, match="a package that is not installed") as caught:
            attempt()
        assert "pip install 'goldens[remote]'" in caught.value.hint


def test_fsspec_itself_may_be_missing():
    code = """
        import sys
        sys.modules["fsspec"] = None
        from harness.errors import GoldenError
        from harness.store import open_golden
        try:
            open_golden("gs://bucket/small.zarr")
        except GoldenError as error:
            assert "goldens[remote]" in error.hint
            print("refused")
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.stdout == "refused\n", done.stderr


def test_an_unknown_kind_of_url_is_refused():
    with pytest.raises(GoldenError, match="cannot be opened") as caught:
        open_golden("ftpx://bucket/small.zarr")
    assert "gs://" in caught.value.hint


def test_hdf5_at_a_url_is_refused(url):
    for attempt in (open_golden, lambda path: check_writable(path, True)):
        with pytest.raises(GoldenError, match="an HDF5 golden is a local file"):
            attempt("memory://bucket/small.h5")


def test_a_store_with_directories_of_its_own_serves_as_well(tmp_path):
    url = f"local://{tmp_path}/deep/er/small.zarr"
    write_golden(url, small_golden.arrays(), small_golden.manifest())
    for path in (url, tmp_path / "deep" / "er" / "small.zarr"):
        with open_golden(path) as golden:
            assert golden.verify()


def test_a_url_with_a_trailing_slash_is_the_same_golden(url):
    write_golden(f"{url}/", small_golden.arrays(), small_golden.manifest())
    with open_golden(url) as golden:
        assert golden.verify()


def test_a_failed_write_leaves_no_golden_and_what_was_there_is_gone(url):
    """Documented in goldens/README.md: an object store cannot exchange names."""
    write_golden(url, small_golden.arrays(), small_golden.manifest())

    def arrays():
        yield from list(small_golden.arrays(seed=1))[:20]
        refusal(url, "never finished")
        raise RuntimeError("the recording went wrong")

    with pytest.raises(RuntimeError):
        write_golden(url, arrays(), small_golden.manifest(), overwrite=True)
    refusal(url, "never finished")
    assert not MemoryFileSystem.store


def test_readers_see_nothing_until_the_manifest_is_there(url):
    def arrays():
        for new in small_golden.arrays():
            refusal(url, "never finished")
            yield new

    write_golden(url, arrays(), small_golden.manifest())
    with open_golden(url) as golden:
        assert golden.verify()


def test_the_document_of_the_manifest_is_written_last_and_the_mark_of_a_golden_first(url, monkeypatch):
    """A kill in between leaves no golden, and what it leaves may be overwritten."""
    names, write = [], RemoteFiles.write
    monkeypatch.setattr(
        RemoteFiles, "write", lambda files, name, data: (names.append(name), write(files, name, data))
    )
    write_golden(url, small_golden.arrays(), small_golden.manifest())
    assert (names[0], names[-2:]) == ("zarr.json", ["manifest/c.0", "manifest/zarr.json"])


def test_what_a_killed_write_left_behind_can_be_overwritten(url):
    write_golden(url, small_golden.arrays(), small_golden.manifest())
    fsspec.filesystem("memory").rm("/bucket/small.zarr/manifest", recursive=True)
    with pytest.raises(GoldenError, match="something at this path already"):
        check_writable(url, False)
    write_golden(url, small_golden.arrays(), small_golden.manifest(), overwrite=True)
    with open_golden(url) as golden:
        assert golden.verify()


def test_objects_of_somebody_else_are_never_deleted(url):
    fsspec.filesystem("memory").pipe_file("/bucket/small.zarr/photo", b"me")
    with pytest.raises(GoldenError, match="not deleted"):
        write_golden(url, small_golden.arrays(), small_golden.manifest(), overwrite=True)
    assert fsspec.filesystem("memory").cat_file("/bucket/small.zarr/photo") == b"me"


def test_a_neighbour_whose_name_begins_alike_is_left_alone(url):
    write_golden(f"{url}.bak", small_golden.arrays(), small_golden.manifest())
    write_golden(url, small_golden.arrays(), small_golden.manifest())
    write_golden(url, small_golden.arrays(), small_golden.manifest(), overwrite=True)
    with open_golden(f"{url}.bak") as golden:
        assert golden.verify()
