"""What is particular about URLs: packages that may be missing, and a store that cannot rename."""

import itertools
import json
import subprocess
import sys
import textwrap
from datetime import timedelta

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from harness.errors import GoldenError
from harness.store import open_golden
from harness.store.remote import RemoteFiles
from harness.store.writer import check_writable, write_golden
from harness.store.zarr3 import ROOT, edition_of, encoded_document, root_attributes
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


def id_of(url):
    """The golden's id, once everything of it has been verified."""
    with open_golden(url) as golden:
        golden.verify()
        return golden.id


def replace(url, seed=1):
    return write_golden(url, small_golden.arrays(seed=seed), small_golden.manifest(), overwrite=True)


@pytest.mark.parametrize("times", [0, 1, 2])
def test_a_golden_that_is_replaced_is_there_until_the_new_one_is(url, times):
    """However often it was replaced before; and of what was replaced, nothing stays."""
    before = write_golden(url, small_golden.arrays(), small_golden.manifest())
    for seed in range(times):
        before = replace(url, seed + 2)

    def arrays():
        yield from small_golden.arrays(seed=1)
        assert id_of(url) == before

    after = write_golden(url, arrays(), small_golden.manifest(), overwrite=True)
    assert id_of(url) == after != before
    edition = edition_of(RemoteFiles(url))
    assert {path.partition("/")[0] for path in RemoteFiles(url).paths()} == {"zarr.json", edition}


@pytest.mark.parametrize("times", [0, 1])
def test_a_failed_write_leaves_the_golden_that_was_there_and_nothing_else(url, times):
    before = write_golden(url, small_golden.arrays(), small_golden.manifest())
    if times:
        before = replace(url)
    blobs = dict(MemoryFileSystem.store)

    def arrays():
        yield from list(small_golden.arrays(seed=3))[:20]
        raise RuntimeError("the recording went wrong")

    with pytest.raises(RuntimeError):
        write_golden(url, arrays(), small_golden.manifest(), overwrite=True)
    assert id_of(url) == before
    assert MemoryFileSystem.store == blobs


@pytest.mark.parametrize("done", [True, False])
def test_a_failure_of_the_last_step_itself_loses_neither_golden(url, done, monkeypatch):
    """A store may have done what it says that it failed to do."""
    before, write = write_golden(url, small_golden.arrays(), small_golden.manifest()), RemoteFiles.write

    def failing(files, name, data):
        last = (files.where, name) == (url, "zarr.json")
        if done or not last:
            write(files, name, data)
        if last:
            raise ConnectionError("cut")

    with monkeypatch.context() as patched, pytest.raises(GoldenError, match="cannot be written"):
        patched.setattr(RemoteFiles, "write", failing)
        replace(url)
    assert (id_of(url) != before) is done


def test_a_failed_first_write_leaves_nothing(url):
    with pytest.raises(GoldenError, match="lacks an array"):
        write_golden(url, list(small_golden.arrays())[:20], small_golden.manifest())
    assert not MemoryFileSystem.store


@pytest.mark.parametrize("at", range(0, 320, 40))
def test_a_kill_at_any_request_of_a_replacement_leaves_the_old_golden(url, at, monkeypatch):
    """Nothing is tidied up: every later call fails, as if the process were gone."""
    before = write_golden(url, small_golden.arrays(), small_golden.manifest())
    number = itertools.count()
    call = RemoteFiles._call

    def killed(files, *args, **options):
        if next(number) >= at:
            raise KeyboardInterrupt
        return call(files, *args, **options)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(RemoteFiles, "_call", killed)
        replace(url)
    assert id_of(url) == before
    after = replace(url)
    assert id_of(url) == after


def test_two_writers_at_once_leave_one_whole_golden(url):
    """The one that ends last is there; neither takes away what the other is writing."""
    write_golden(url, small_golden.arrays(), small_golden.manifest())
    ids = []

    def arrays():
        every = list(small_golden.arrays(seed=1))
        yield from every[:20]
        ids.append(replace(url, seed=2))
        assert id_of(url) == ids[0]
        yield from every[20:]

    last = write_golden(url, arrays(), small_golden.manifest(), overwrite=True)
    assert id_of(url) == last != ids[0]


def test_of_two_first_writers_the_second_is_refused_and_the_first_is_whole(url):
    def arrays():
        with pytest.raises(GoldenError, match="something at this path already"):
            write_golden(url, small_golden.arrays(seed=1), small_golden.manifest())
        yield from small_golden.arrays()

    first = write_golden(url, arrays(), small_golden.manifest())
    assert id_of(url) == first


def test_a_first_writer_who_is_overtaken_and_fails_takes_nothing_of_the_other(url):
    def arrays():
        yield from list(small_golden.arrays())[:20]
        replace(url)
        raise RuntimeError("the recording went wrong")

    with pytest.raises(RuntimeError):
        write_golden(url, arrays(), small_golden.manifest())
    assert id_of(url)
    assert len({path.partition("/")[0] for path in RemoteFiles(url).paths()}) == 2


@pytest.mark.parametrize("days, left", [(0, True), (2, False)])
def test_what_a_write_left_that_died_is_removed_a_day_later(url, days, left):
    write_golden(url, small_golden.arrays(), small_golden.manifest())
    fsspec.filesystem("memory").pipe_file("/bucket/small.zarr/edition.00000000/zarr.json", b"{}")
    blob = MemoryFileSystem.store["/bucket/small.zarr/edition.00000000/zarr.json"]
    blob.modified -= timedelta(days=days)
    replace(url)
    assert id_of(url)
    assert ("/bucket/small.zarr/edition.00000000/zarr.json" in MemoryFileSystem.store) is left


def test_an_edition_is_a_golden_by_itself_and_a_copy_of_the_whole_is_one_too(url, tmp_path):
    write_golden(url, small_golden.arrays(), small_golden.manifest())
    after = replace(url)
    assert id_of(f"{url}/{edition_of(RemoteFiles(url))}") == after
    fsspec.filesystem("memory").get("/bucket/small.zarr", str(tmp_path / "copy.zarr"), recursive=True)
    assert id_of(tmp_path / "copy.zarr") == after
    write_golden(tmp_path / "copy.zarr", small_golden.arrays(), small_golden.manifest(), overwrite=True)
    assert not [path for path in (tmp_path / "copy.zarr").iterdir() if path.name.startswith("edition")]


@pytest.mark.parametrize("name", ["edition.0", "../../other.zarr", "edition.0000000g", 1, "edition.00000000/.."])
def test_a_root_that_names_no_edition_of_that_grammar_is_not_followed(url, name):
    write_golden(url, small_golden.arrays(), small_golden.manifest())
    root = json.loads(encoded_document(**ROOT)) | {"attributes": {"format": "goldens", "edition": name}}
    fsspec.filesystem("memory").pipe_file("/bucket/small.zarr/zarr.json", json.dumps(root).encode())
    refusal(url, "attributes")


def test_a_root_that_names_an_edition_that_is_not_there_is_no_golden(url):
    write_golden(url, small_golden.arrays(), small_golden.manifest())
    fsspec.filesystem("memory").pipe_file(
        "/bucket/small.zarr/zarr.json", encoded_document(**root_attributes("edition.00000000"))
    )
    refusal(url, "no manifest", "edition.00000000")


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
    names, put = [], RemoteFiles._put

    def noted(files, name, data, **options):
        names.append(name)
        put(files, name, data, **options)

    monkeypatch.setattr(RemoteFiles, "_put", noted)
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
