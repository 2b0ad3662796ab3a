"""pyproject.toml and the imports say the same: what is imported is declared, what is declared is used."""

from __future__ import annotations

import re
import sys
import tomllib

from tests.documents import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMPORT = re.compile(r"^[ \t]*(?:from ([A-Za-z_]\w*)[\w.]* import |import ([A-Za-z_]\w*))", flags=re.MULTILINE)
STRING = re.compile(r'""".*?"""', flags=re.DOTALL)  # may quote an import; none that counts is in one
# What a distribution is imported as, where that is not its name.
IMPORTED_AS = {
    "gcp-storage-emulator": "gcp_storage_emulator",
    "google-tunix": "tunix",
    "huggingface-hub": "huggingface_hub",
    "import-linter": "importlinter",
    "markdown-it-py": "markdown_it",
    "ml-dtypes": "ml_dtypes",
    "pytest-xdist": "xdist",
    "pyyaml": "yaml",
}
# What is used without an import.
BY_NAME = {
    "h5netcdf": "the engine by which xarray opens an HDF5 golden",
    "hatchling": "builds the wheel of tests/test_wheel.py",
    "mypy": "run by .ci/lint",
    "ruff": "run by .ci/lint",
    "gcsfs": "found by fsspec",
    "s3fs": "found by fsspec",
    "zstandard": "found by JAX's compilation cache",
    "flask": "the server of moto",
    "flask-cors": "the server of moto",
}
# Where each extra is imported; everything else of the package needs no more than `dependencies`.
PLACES = {
    "record": ("harness/record/",),
    "remote": ("harness/store/remote.py",),
    "labelled": ("harness/labelled.py",),
}
# Not ours to declare: pytest loads the plugin, and a port brings its framework.
BROUGHT = {
    "pytest": ("harness/pytest_plugin.py", "harness/testing/"),
    "keras": ("harness/run/adapters/keras.py",),
}
# Strangers, each in an environment of its own (tests/clients/README.md).
STRANGERS = {"easydel", "ejkernel", "haliax", "keras", "keras_hub", "levanter"}


def declared(requirements: list[str]) -> set[str]:
    """The modules that requirements bring."""
    names = {re.split(r"[\[<>=~!]", line)[0].strip().lower() for line in requirements}
    return {IMPORTED_AS.get(name, name) for name in names}


def imports(folder: str) -> dict[str, set[str]]:
    """The top-level modules that files below a folder import, without those of Python and of ours."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / folder).rglob("*.py"):
        text = STRING.sub("", path.read_text(encoding="utf-8"))
        names = (
            {one or other for one, other in IMPORT.findall(text)} - sys.stdlib_module_names - {"harness", "tests"}
        )
        found[str(path.relative_to(ROOT))] = names
    return found


def undeclared(file: str, names: set[str]) -> set[str]:
    """What a file of the package imports and its users may not have."""
    extras = PROJECT["optional-dependencies"]
    allowed = declared(PROJECT["dependencies"])
    for extra, places in PLACES.items():
        if file.startswith(places):
            allowed |= declared(extras[extra])
    allowed |= {name for name, places in BROUGHT.items() if file.startswith(places)}
    return names - allowed


def test_what_the_package_imports_is_declared_for_those_who_use_it():
    wrong = {file: names for file, found in imports("harness").items() if (names := undeclared(file, found))}
    assert wrong == {}


def test_what_the_tests_import_is_declared():
    extras = PROJECT["optional-dependencies"]
    allowed = declared(PROJECT["dependencies"]).union(*map(declared, extras.values()))
    found = set[str]().union(*imports("tests").values())
    ours = {path.stem for path in (ROOT / "tests").rglob("*.py")}  # of tests that put their folder on the path
    assert found - allowed - STRANGERS - ours == set()


def test_what_is_declared_is_used():
    extras = PROJECT["optional-dependencies"]
    package = set[str]().union(*imports("harness").values())
    both = package.union(*imports("tests").values())
    used = package | {IMPORTED_AS.get(name, name) for name in BY_NAME}
    assert declared(PROJECT["dependencies"]) - package == set()
    for extra in PLACES:
        assert declared(extras[extra]) - used == set(), extra
    for extra in extras.keys() - PLACES.keys():
        assert declared(extras[extra]) - used - both == set(), extra


def test_an_import_that_nobody_declared_is_noticed():
    assert undeclared("harness/taps.py", {"numpy", "torch"}) == {"torch"}
    assert undeclared("harness/record/taps.py", {"numpy", "torch"}) == set()
    assert undeclared("harness/run/taps.py", {"xarray"}) == {"xarray"}
