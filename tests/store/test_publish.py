"""A golden appears whole under its name or not at all: failures, SIGKILL, a full disk, two writers."""

import os
import signal
import sys
import textwrap
from pathlib import Path

import pytest

from harness.errors import GoldenError
from harness.store import open_golden, publish
from harness.store.publish import interrupted
from harness.store.writer import check_writable, write_golden
from tests.forked import in_a_fork
from tests.store import places, small_golden
from tests.store.test_store import refusal


@pytest.fixture(params=["h5", "zarr"])
def local(request, tmp_path):
    """A place with a name that can be exchanged for another."""
    return with_few_cases(request.param, tmp_path)


def with_few_cases(kind, folder):
    """All cases have the same way onto the disk."""
    place = places.make(kind, folder)
    place.folder, place.few = folder, True
    return place


def arrays_of(seed=0):
    return small_golden.arrays(cases=small_golden.FEW, seed=seed)


def manifest_of():
    return small_golden.manifest(cases=small_golden.FEW)


def siblings(place):
    return [path.name for path in place.folder.iterdir() if path.name != os.path.basename(place.path)]  # noqa: PTH119


def in_another_process(place, prelude="", overwrite=True):
    """Write the golden of seed 1; `prelude` runs before, with `publish`, `write_golden` and so on in scope."""
    code = """
    import os, resource, signal
    import numpy as np
    from harness.store import publish, writer
    from harness.store.writer import write_golden
    from tests.store import small_golden
    from tests.store.test_publish import arrays_of, manifest_of

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    arrays, manifest = arrays_of(seed=1), manifest_of()
    """
    code = textwrap.dedent(code) + textwrap.dedent(prelude)
    code += f"\nwrite_golden({place.path!r}, arrays, manifest, overwrite={overwrite})\n"
    return in_a_fork(lambda: exec(code, {}))


KILLS = {
    "before the first array": "arrays = (die() for _ in range(1))",
    "in the middle": """
        def half(given):
            for index, new in enumerate(given):
                if index == 20:
                    die()
                yield new
        arrays = half(arrays)
        """,
    "before the manifest": "writer.encode = die",
    "before it is opened": "writer.open_golden = die",
    "before it is synced": "publish.os.fsync = die",
    "before it takes the name": "publish._exchange = publish.Path.replace = die",
}


@pytest.mark.parametrize("kill", KILLS)
def test_a_sigkill_leaves_the_old_golden_and_the_next_write_cleans_up(local, kill):
    local.lay()
    before = local.contents()
    assert in_another_process(local, KILLS[kill]).returncode == -signal.SIGKILL
    assert local.contents() == before
    assert siblings(local)
    assert all(name.startswith(".small.") and name.endswith(".tmp") for name in siblings(local))
    local.write(overwrite=True)
    assert siblings(local) == []
    assert local.contents() == before


@pytest.mark.parametrize("kill", KILLS)
def test_a_sigkill_where_nothing_was_leaves_nothing(local, kill):
    assert in_another_process(local, KILLS[kill]).returncode == -signal.SIGKILL
    refusal(local.path, "the golden does not exist")


def test_a_sigkill_once_the_name_is_taken_leaves_the_new_golden(local):
    local.lay()
    prelude = """
        exchange, replace = publish._exchange, publish.Path.replace
        publish._exchange = lambda *names: (exchange(*names), die())
        publish.Path.replace = lambda *names: (replace(*names), die())
        """
    done = in_another_process(local, prelude)
    assert done.returncode == -signal.SIGKILL
    id_ = local.contents()[0]
    assert id_ == write_golden(local.path, arrays_of(seed=1), manifest_of(), overwrite=True)
    assert siblings(local) == []


def fail_while_iterating():
    yield from list(arrays_of(seed=1))[:20]
    raise RuntimeError("the recording went wrong")


def interrupted_while_iterating():
    yield from list(arrays_of(seed=1))[:-1]
    raise KeyboardInterrupt


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    ("arrays", "error"),
    [(fail_while_iterating, RuntimeError), (interrupted_while_iterating, KeyboardInterrupt)],
)
def test_an_exception_of_the_recorder_passes_and_changes_nothing(local, there, arrays, error):
    before = (local.lay(), local.contents())[1] if there else None
    with pytest.raises(error):
        write_golden(local.path, arrays(), manifest_of(), overwrite=True)
    assert siblings(local) == []
    if there:
        assert local.contents() == before
    else:
        refusal(local.path, "the golden does not exist")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_at_any_write_ends_the_writing_and_changes_nothing(local, name):
    """HDF5 waits for ever where an exception comes out of a write."""
    local.lay()
    before = local.contents()
    done = in_another_process(
        local,
        f"""
        from pathlib import Path
        from harness.store.files import LocalFiles
        from harness.store.hdf5_writer import Sink

        class Came(BaseException):
            pass

        def came(*_):
            raise Came

        signal.signal(signal.{name}, came)
        writes, at = 0, None

        def counted(write):
            def call(*args):
                global writes
                writes += 1
                if writes - 1 == at:
                    signal.raise_signal(signal.{name})
                return write(*args)
            return call

        Sink.write, LocalFiles.write = counted(Sink.write), counted(LocalFiles.write)
        if {local.kind!r} == "zarr":
            from zarr.storage import MemoryStore
            MemoryStore.set = counted(MemoryStore.set)  # zarr's own thread is at work then
        count = Path({local.path!r}).with_name("count" + Path({local.path!r}).suffix)
        write_golden(count, arrays_of(seed=2), manifest)  # no document of it serves again
        every = writes
        for at in sorted({{*range(0, every, max(every // 6, 1)), every - 2, every - 1}}):
            writes = 0
            try:
                write_golden({local.path!r}, arrays_of(seed=3), manifest, overwrite=True)
            except Came:
                continue
            raise SystemExit(f"write {{at}} of {{every}}: the signal is lost")
        die()
        """,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert local.contents() == before
    assert [name for name in siblings(local) if not name.startswith("count")] == []


@pytest.fixture
def interruptible():
    """What runs in the background of a shell is started with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_signal_between_two_renames_waits_for_the_second(tmp_path, no_exchange, monkeypatch, interruptible):
    place = with_few_cases("zarr", tmp_path)
    place.lay()
    rename, calls = Path.rename, []

    def interrupted_first(path, target):
        calls.append(target)
        result = rename(path, target)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(Path, "rename", interrupted_first)
    with pytest.raises(KeyboardInterrupt):
        write_golden(place.path, arrays_of(seed=1), manifest_of(), overwrite=True)
    assert len(calls) == 2
    assert place.contents()[0]


@pytest.mark.parametrize("room", [100, 4096, 20_000])
def test_a_full_disk_is_a_refusal_and_changes_nothing(local, room):
    """A limit on the size of a file stands for the full disk: the same failure of the same write.

    The first array is larger than the limit where the files of a Zarr are all smaller.
    """
    local.lay()
    before = local.contents()
    done = in_another_process(
        local,
        f"""
        cases = small_golden.FEW | {{"large": ("ops", (1, 500))}}
        arrays, manifest = small_golden.arrays(cases=cases), small_golden.manifest(cases=cases)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))
        """,
    )
    assert done.returncode == 1, done.stderr
    assert "harness.errors.GoldenError: the golden cannot be written" in done.stderr
    assert "Segmentation" not in done.stderr
    assert local.contents() == before
    assert siblings(local) == []


def test_a_disk_that_fills_with_the_last_metadata_is_a_refusal(local):
    """Every size of a file up to the one that is needed, in steps: also the failures at closing."""
    local.lay()
    before = local.contents()
    largest = max(len(data) for data in local.blobs().values())
    done = in_another_process(
        local,
        f"""
        from harness.errors import GoldenError
        for room in range(50, {largest}, {max(largest // 6, 1)}):
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
            try:
                write_golden({local.path!r}, arrays_of(seed=1), manifest, overwrite=True)
            except GoldenError as error:
                assert "cannot be written" in error.problem, error
            else:
                raise SystemExit(f"{{room}} bytes were enough")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        die()
        """,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert local.contents() == before
    assert siblings(local) == []


def test_a_parent_that_is_missing_or_a_file_is_refused_early(tmp_path):
    (tmp_path / "file").write_text("x")
    for parent, found in (("missing", "nothing"), ("file", "something else")):
        path = tmp_path / parent / "golden.h5"
        for attempt in (
            lambda path=path: check_writable(path, True),
            lambda path=path: write_golden(path, [], manifest_of()),
        ):
            with pytest.raises(GoldenError, match="directory to write to does not exist") as caught:
                attempt()
            assert caught.value.found == found


def test_a_name_that_the_file_system_does_not_take_is_refused(tmp_path):
    for attempt in (check_writable, lambda path, _: write_golden(path, [], manifest_of())):
        with pytest.raises(GoldenError, match="cannot be written"):
            attempt(tmp_path / ("n" * 300 + ".h5"), False)


def test_a_read_only_parent_is_refused_early(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root, as whom CI may run, may write anywhere
    with pytest.raises(GoldenError, match="read-only"):
        check_writable(tmp_path / "golden.h5", False)


@pytest.mark.parametrize("name", ["golden", "golden.npz", "golden.h5.bak", "golden.ZIP"])
def test_an_unknown_suffix_is_refused_early(tmp_path, name):
    with pytest.raises(GoldenError, match="suffix does not say") as caught:
        check_writable(tmp_path / name, False)
    assert ".h5" in caught.value.hint


def test_file_urls_are_local_paths(tmp_path):
    for name in ("small.h5", "small.zarr"):
        id_ = write_golden(f"file://{tmp_path}/{name}", arrays_of(), manifest_of())
        for path in (tmp_path / name, f"file://{tmp_path}/{name}"):
            with open_golden(path) as golden:
                assert golden.id == id_


def test_a_file_is_not_replaced_by_a_directory_nor_the_reverse(tmp_path):
    (tmp_path / "golden.h5").mkdir()
    (tmp_path / "golden.zarr").write_text("x")
    for name in ("golden.h5", "golden.zarr"):
        with pytest.raises(GoldenError, match="another kind"):
            check_writable(tmp_path / name, True)


def test_a_symbolic_link_stays_and_its_target_is_replaced(local):
    local.lay()
    suffix = local.path[local.path.rindex(".") :]
    link = local.folder / f"link{suffix}"
    link.symlink_to(local.path)
    id_ = write_golden(link, arrays_of(seed=1), manifest_of(), overwrite=True)
    assert link.is_symlink()
    assert local.contents()[0] == id_


def test_a_second_writer_is_refused_and_the_first_unharmed(local):
    def arrays():
        for index, new in enumerate(arrays_of()):
            if index == 5:
                with pytest.raises(GoldenError, match="another write to this golden is under way"):
                    write_golden(local.path, arrays_of(seed=1), manifest_of())
            yield new

    write_golden(local.path, arrays(), manifest_of())
    assert local.contents()[0]
    assert siblings(local) == []


def test_a_golden_open_for_reading_is_not_disturbed_by_its_replacement(tmp_path):
    place = with_few_cases("h5", tmp_path)
    place.lay()
    with open_golden(place.path) as golden:
        write_golden(place.path, arrays_of(seed=1), manifest_of(), overwrite=True)
        assert golden.verify()


def test_a_zarr_replaced_while_it_is_read_is_refused_not_mixed(tmp_path):
    place = with_few_cases("zarr", tmp_path)
    place.lay()
    with open_golden(place.path) as golden:
        write_golden(place.path, arrays_of(seed=1), manifest_of(), overwrite=True)
        with pytest.raises(GoldenError, match="sha256"):
            golden.tap("padded", "embed")


@pytest.fixture
def no_exchange(monkeypatch):
    """A system or file system without an atomic exchange of names."""
    monkeypatch.setattr(publish, "_exchange", lambda one, other: False)


def test_without_exchange_two_renames_do(tmp_path, no_exchange):
    place = with_few_cases("zarr", tmp_path)
    place.lay()
    id_ = write_golden(place.path, arrays_of(seed=1), manifest_of(), overwrite=True)
    assert place.contents()[0] == id_
    assert siblings(place) == []


def test_a_kill_between_two_renames_is_explained_and_the_next_write_restores(tmp_path):
    place = with_few_cases("zarr", tmp_path)
    place.lay()
    before = place.contents()
    prelude = """
        publish._exchange = lambda *_: False
        rename, calls = publish.Path.rename, []
        def second_dies(path, target):
            calls.append(target)
            return die() if len(calls) == 2 else rename(path, target)
        publish.Path.rename = second_dies
        """
    assert in_another_process(place, prelude).returncode == -signal.SIGKILL
    old = interrupted(tmp_path / "small.zarr")
    message = refusal(place.path, "a write of this golden was interrupted", str(old))
    assert f"mv {old} {place.path}" in message
    with pytest.raises(RuntimeError):
        write_golden(place.path, fail_while_iterating(), manifest_of(), overwrite=True)
    assert place.contents() == before
    assert siblings(place) == []


def test_everything_is_on_the_disk_before_the_name_is_taken(local, monkeypatch):
    local.lay()
    calls = []
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append(os.fstat(handle).st_ino))
    exchange, replace = publish._exchange, publish.Path.replace
    monkeypatch.setattr(publish, "_exchange", lambda *names: (calls.append("name"), exchange(*names))[1])
    monkeypatch.setattr(publish.Path, "replace", lambda *names: (calls.append("name"), replace(*names))[1])
    local.write(overwrite=True)
    written = Path(local.path)
    everything = {path.stat().st_ino for path in (written, *written.rglob("*"))}
    assert calls[-2] == "name" and set(calls[:-2]) == everything
    assert calls[-1] == written.parent.stat().st_ino


def test_publishing_waits_for_its_own_files_alone(local, monkeypatch):
    """`sync` waits for everything that any process has written: seconds on a machine at work."""
    monkeypatch.setattr(os, "sync", lambda: pytest.fail("waited for everybody"))
    local.write()


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_names_are_exchanged_in_one_step_on_linux(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    (one / "first").touch()
    assert publish._exchange(one, other)
    assert (other / "first").exists()
    assert not (one / "first").exists()
    assert not publish._exchange(one, tmp_path / "missing")
