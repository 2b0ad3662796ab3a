"""The families of models that are known: each a file here, found by being here.

Such a file is data: how a config of the family is read, which fields of it are harmless, where transformers has
the taps. Everything else asks for the family of a config, and names none.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from functools import cache
from pathlib import Path

from harness.families.family import Family

_NAME = re.compile(r'^        model_type="(\w+)"|Family\(model_type="(\w+)"', re.MULTILINE)


@cache
def families() -> dict[str, Family]:
    """Every family by its `model_type`, in alphabetical order: what the modules here call FAMILIES."""
    found: list[Family] = []
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        found += getattr(importlib.import_module(module.name), "FAMILIES", ())
    return {family.model_type: family for family in sorted(found, key=lambda one: one.model_type)}


@cache
def family_named(model_type: str) -> Family:
    """One family; of all their files its own is imported.

    Raises:
        KeyError: there is none of that name.
    """
    module = _modules().get(model_type)
    if module is None:
        return families()[model_type]
    own: tuple[Family, ...] = importlib.import_module(f"{__name__}.{module}").FAMILIES
    return next(family for family in own if family.model_type == model_type)


def names() -> list[str]:
    """The names of all families, from the text of their files: a help page imports none of them, nor numpy."""
    return sorted(_modules())


@cache
def _modules() -> dict[str, str]:
    """By family, the module that has it."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    texts = ((file.stem, file.read_text(encoding="utf-8")) for file in files)
    return {match[1] or match[2]: stem for stem, text in texts for match in _NAME.finditer(text)}
