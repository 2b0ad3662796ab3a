"""The families of models that are known: each a file here, found by being here.

Such a file is data: how a config of the family is read, which fields of it are harmless, where transformers has
the taps. Everything else asks for the family of a config, and names none.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from harness.families.family import Family


@cache
def families() -> dict[str, Family]:
    """Every family by its `model_type`, in alphabetical order: what the modules here call FAMILIES."""
    found: list[Family] = []
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        found += getattr(importlib.import_module(module.name), "FAMILIES", ())
    return {family.model_type: family for family in sorted(found, key=lambda one: one.model_type)}
