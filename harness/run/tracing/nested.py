"""The programs inside an equation: what `jax.extend.core` offers since jax 0.10, for earlier versions as well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax.extend.core
from jax.extend.core import ClosedJaxpr, Jaxpr

__all__ = ["jaxprs_in_params"]


def _jaxprs_in_params(params: Mapping[str, Any]) -> Iterator[Jaxpr]:
    """The programs among an equation's parameters, alone or in a tuple of several: the branches of a cond."""
    for value in params.values():
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Jaxpr):
                yield one
            elif isinstance(one, ClosedJaxpr):
                yield one.jaxpr


jaxprs_in_params = getattr(jax.extend.core, "jaxprs_in_params", _jaxprs_in_params)
