"""Which tree below a root is the golden: the root itself, or an edition.

An object store cannot rename, so a golden at a URL is replaced by another tree: an **edition**, a folder in the
root, `edition.{8 digits}`, that is a whole golden by itself. The root's zarr.json names the edition that counts.
It is one object, and storing it is one step: whenever a writer dies, a reader sees the old golden or the new
one.
"""

from __future__ import annotations

import json
import secrets
from datetime import timedelta

from harness.store.files import Files
from harness.store.remote import RemoteFiles
from harness.store.zarr3 import DOCUMENT, DOCUMENT_LIMIT, EDITION, EDITION_NAME, ROOT, document, encoded_document

# An edition that nothing names is left by a write that died, or being written. No write takes as long as this.
DEAD_AFTER = timedelta(days=1)


def new_name() -> str:
    return f"{EDITION}.{secrets.token_hex(4)}"


def root_document(edition: str = "") -> bytes:
    """The root's zarr.json."""
    return encoded_document(**_attributes(edition))


def is_golden(files: Files) -> bool:
    """Whether the files below a root are a golden, damaged or unfinished ones included."""
    attributes = _root(files).get("attributes")
    return isinstance(attributes, dict) and attributes == _attributes(_named(attributes))


def edition_of(files: Files) -> str:
    """The edition that the root names; empty where the golden lies in the root itself, or none is there."""
    found = _root(files)
    name = _named(found.get("attributes"))
    return name if name and found == document(**_attributes(name)) else ""


def current(files: Files) -> Files:
    """The tree that is the golden."""
    edition = edition_of(files)
    return files.below(edition) if edition else files


def leftovers(files: RemoteFiles, edition: str, replaced: str) -> list[str]:
    """What is no part of the golden any more once an edition counts.

    The golden that it replaced, and what writes have left that died: other editions may be another writer's.
    """
    dead: dict[str, bool] = {edition: False, replaced: True}

    def gone(path: str) -> bool:
        name = path.partition("/")[0]
        if not EDITION_NAME.fullmatch(name):
            return path != DOCUMENT
        if name not in dead:
            dead[name] = files.older(f"{name}/{DOCUMENT}", DOCUMENT, DEAD_AFTER)
        return dead[name]

    return [path for path in files.paths() if gone(path)]


def _attributes(edition: str) -> dict[str, str]:
    return ROOT | ({EDITION: edition} if edition else {})


def _named(attributes: object) -> str:
    name = attributes.get(EDITION) if isinstance(attributes, dict) else None
    return name if isinstance(name, str) and EDITION_NAME.fullmatch(name) else ""


def _root(files: Files) -> dict[str, object]:
    """The root's zarr.json; empty where there is none, or none that can be read as one."""
    try:
        found = json.loads(files.read(DOCUMENT, DOCUMENT_LIMIT))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
