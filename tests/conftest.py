from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import embedded
from tests.compiled import Compiled, share, share_context

# What one test compiled is not compiled again by the next, nor in processes that tests start: every port has
# functions of its own, but they are mostly the same program. JAX looks these variables up when it is imported, and
# other conftest files do that.
COMPILED = Compiled(os.environ)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Half of the time here goes into compiling small programs that run once: they are hardly optimized, and in one
# part, for both cores are busy. What is rounded stays rounded: XLA may leave out a rounding to a narrower
# dtype and back. What users get is what the README's first command checks.
QUICK = (
    "--xla_backend_optimization_level=0",
    "--xla_allow_excess_precision=false",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_cpu_prefer_vector_width=64",  # exp and its like are short programs then
)
# Threads of OpenMP, which torch and BLAS have, wait for each other by spinning: on matrices of this size, and
# beside other tests, they take ten times as long as one alone. Processes that tests start have one as well.
os.environ["OMP_NUM_THREADS"] = "1"


def own_core(worker: str | None, workers: str | None) -> None:
    """Keep a worker of pytest-xdist, and what it starts, to one core, where there is one for each of them.

    All are busy then: the threads of one would only take turns with those of the other, and move about.
    """
    if worker is None or workers is None or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if int(workers) == len(cores):
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw"))]})


own_core(os.environ.get("PYTEST_XDIST_WORKER"), os.environ.get("PYTEST_XDIST_WORKER_COUNT"))
os.environ["XLA_FLAGS"] = " ".join(filter(None, (os.environ.get("XLA_FLAGS"), *QUICK)))


def pytest_configure() -> None:
    share(COMPILED)
    share_context()


def pytest_collection_finish() -> None:
    """What was imported stays: it is not looked through for garbage again and again, nor is all else so often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_unconfigure() -> None:
    COMPILED.cleanup()


def pytest_runtest_logfinish() -> None:
    COMPILED.exchange()


# The files that take longest start first, so that no worker is left with one of them at the end. Those of one line
# go to one worker: they run the same small programs, which are then traced and lowered once as well.
LONGEST = (
    (
        "mutants/test_catalogue.py",
        "mutants/test_decode_bugs.py",
        "mutants/test_audit.py",
        "mutants/test_windows.py",
    ),
    ("mutants/diagnosis/test_diagnose.py", "second_port/test_variants.py", "second_port/test_second_port.py"),
    ("store/test_damage.py",),
    ("devices/test_devices.py",),
    ("run/test_revision.py",),
    ("test_campaign.py", "record/test_command.py"),
    ("record/test_resume.py",),
    ("families/test_independent.py",),
    ("run/adapters/test_adapters.py",),
    ("testing/test_collection.py",),
    ("test_imports.py",),
    ("record/test_recorder.py",),
)
PLACES = {file: place for place, file in enumerate(file for together in LONGEST for file in together)}


# Its tests share nothing but a model: they are divided by the config at the end of their names. The decoders are
# compiled operation by operation, and have most operations in common.
DIVIDED, DECODERS = "families/test_families.py", "test_the_built_in_decoder_computes_it"


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0].removeprefix("tests/")


def _scope(nodeid: str) -> str:
    """What goes to one worker as a whole."""
    file = _file(nodeid)
    if DECODERS in nodeid:
        return DECODERS
    if file == DIVIDED:
        return "-".join(nodeid.rpartition("[")[2].split("-")[-2:])
    return next((str(files) for files in LONGEST if file in files), file)


MARKS = ("record", "imports")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m 'one or other'`, a file that names none of these marks has no test to run, and is not imported."""
    marks = config.option.markexpr.split(" or ")
    alone = all(mark.isidentifier() for mark in marks)
    if not alone or not collection_path.name.startswith("test_") or not collection_path.is_file():
        return None
    text = collection_path.read_text(encoding="utf-8")
    return None if any(f"mark.{mark}" in text for mark in marks) else True


def _unnamed(items: list[pytest.Item]) -> set[str]:
    """Files with tests of a mark that they do not name: see `pytest_ignore_collect`."""
    marked = {(item.path, name) for item in items for name in MARKS if item.get_closest_marker(name)}
    return {str(path) for path, name in marked if f"mark.{name}" not in path.read_text(encoding="utf-8")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if unnamed := _unnamed(items):
        raise pytest.UsageError(f"these have a mark that they do not name: {', '.join(sorted(unnamed))}")
    items.sort(key=lambda item: -1 if DECODERS in item.nodeid else PLACES.get(_file(item.nodeid), len(PLACES)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n`, the tests of a scope go to one worker: what they share is computed, and compiled, once."""
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _scope(nodeid)

    config.option.loadscopereorder = False  # it would be by the number of tests
    return Together(config, log) if config.getoption("dist") == "load" else None


@pytest.fixture(scope="session", autouse=True)
def no_terminal_width() -> Iterator[None]:
    """The workers of pytest-xdist have COLUMNS=80; what is printed here is as wide as in a log."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)
        yield


@pytest.fixture(scope="session")
def golden_path() -> Path:
    """The embedded golden."""
    return embedded.golden()


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """The embedded golden's checkpoint. Not to be changed: see `own_checkpoint`."""
    return embedded.directory() / "qwen2-tiny"


@pytest.fixture(scope="session")
def window_golden() -> Path:
    """The embedded golden of a model with a sliding window in all layers but the first."""
    return embedded.directory() / "qwen2-window.h5"


@pytest.fixture(scope="session")
def window_checkpoint() -> Path:
    """Its checkpoint."""
    return embedded.directory() / "qwen2-window"


@pytest.fixture
def own_checkpoint(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint that a test may damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "qwen2-tiny"))
