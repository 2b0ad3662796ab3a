import os

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.store import places


@pytest.fixture(autouse=True)
def no_sync(monkeypatch):
    """A hundred writes need not wait for the disk a hundred times; test_publish sees that it is called."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


KINDS = ("h5", "zarr", "zarr-memory-url")


@pytest.fixture(params=KINDS)
def place(request, tmp_path):
    """Where a golden can lie. A test that takes it is part of the definition of a backend."""
    yield places.make(request.param, tmp_path)
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]  # it looks through all of them at every write


@pytest.fixture
def golden(place):
    """A place with the small golden in it."""
    place.lay()
    return place


@pytest.fixture
def slight(place):
    """A place with fewer cases in it, for tests that read all of it for every file of it."""
    place.few = True
    place.lay()
    return place


@pytest.fixture(scope="module", params=KINDS)
def standing(request, tmp_path_factory):
    """The same, one for all tests of a module: who damages it puts back what was there, however it ends."""
    place = places.make(request.param, tmp_path_factory.mktemp("standing"))
    place.lay()
    return place
