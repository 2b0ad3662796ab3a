"""An Equinox model as a port: a copy of its tree, in which the modules that the table names mark their values.

Equinox' modules are plain pytrees, and so is the copy: what is marked goes along through `filter_jit`, `vmap`,
`scan` and `checkpoint`, which take a module apart and put it together again. Nothing of Equinox is imported: other
dataclasses that are pytrees do as well.

Under `vmap` the mapped axis comes first, of several the outermost: a norm that is mapped over positions, in a
model that is mapped over the batch, gives [batch, position, hidden]; mapped heads [batch, head, position]. A named
array of Haliax stands for its array, whose axes lie as they lie in it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax import Array

from harness.run.adapters.calls import marked_call
from harness.run.adapters.outputs import is_named
from harness.run.adapters.table import Row, by_path
from harness.run.adapters.tree import (
    Marks,
    ModelPort,
    copied,
    has_nothing,
    has_nothing_to_call,
    marking,
    replaced,
    stored,
)
from harness.run.tracing.program import Ids, Mask


class EquinoxPort(ModelPort):
    """A port of an Equinox model. Write `load`, which ends in `return cls(model, config, dtype)`, and `run`.

    A path follows attributes, list indices and keys as they are stored: `layers.{i}.attn.o_proj`; layers that are
    stacked for a scan have no index (`layers.attn`, `{i}` on the right alone). The path's last name may be that of
    a method, or of a function that a module has as a field. The model itself is never touched.
    """

    framework = frozenset({"equinox", "haliax", "flax"})

    def sub_modules(self) -> Iterable[tuple[str, Any]]:
        callables: dict[str, Any] = {}
        _collect(self.model, (), callables)
        return callables.items()

    def _place(self, rows: tuple[Row, ...]) -> Any:
        """A copy of the model's tree whose values are marked."""
        places: dict[tuple[str, ...], list[tuple[str, tuple[Row, ...]]]] = {}
        for path, own in by_path(rows).items():
            where, method = _place(self.model, path)
            places.setdefault(where, []).append((method, own))
        marked = self.model
        for where, marks in places.items():
            marked = replaced(marked, where, functools.partial(_marking, marks=tuple(marks)))
        return marked

    def _model(self, input_ids: Ids, positions: Ids, mask: Mask, *cache: Any) -> tuple[Any, Mapping[str, Array]]:
        return self.run(self._placed, input_ids, positions, mask, *cache), {}


def _collect(node: Any, where: tuple[str, ...], callables: dict[str, Any], inside: tuple[int, ...] = ()) -> None:
    """What can be called, by path: modules, and functions that they have as fields. One module may have two."""
    if isinstance(node, Mapping):
        inner = dict(node)
    elif isinstance(node, (list, tuple)):
        inner = dict(enumerate(node))
    elif dataclasses.is_dataclass(node) and not isinstance(node, type) and not is_named(node):
        callables[".".join(where)], inner = node, vars(node)
    elif inspect.isfunction(node) or callable(getattr(node, "__wrapped__", None)):
        callables[".".join(where)], inner = node, {}
    else:
        return
    for name, child in inner.items():
        if id(child) not in inside:
            _collect(child, (*where, str(name)), callables, (*inside, id(node)))


def _place(model: Any, path: str) -> tuple[tuple[str, ...], str]:
    """Where a path's module or function is stored, and which of its methods is meant."""
    node, names = model, path.split(".")
    for depth, name in enumerate(names):
        child = stored(node, name)
        if child is None:
            if depth == len(names) - 1 and callable(getattr(type(node), name, None)):
                return tuple(names[:-1]), name
            raise has_nothing(path, name, node)
        node = child
    if not callable(node) or isinstance(node, type):
        raise has_nothing_to_call(path, node)
    return tuple(names), "__call__"


def _marking(node: Any, marks: Marks) -> Any:
    """A module whose methods mark their arguments and results, or a function that does."""
    is_leaf = jax.tree_util.all_leaves([node])
    if is_leaf and marks[0][0] == "__call__":
        return MarkedFunction(node, marks[0][1])
    original: Any = type(node)
    made = marking(original, marks)
    marked = copied(node, made)
    if not is_leaf and jax.tree_util.all_leaves([marked]):
        _register(made, original)
    return marked


@dataclass(frozen=True)
class MarkedFunction:
    """What stands in a module's field in the place of a function, and equals another where that function does."""

    function: Callable[..., Any]
    rows: tuple[Row, ...]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return marked_call(self.rows, self.function, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "function"), name)


def _register(made: Any, original: Any) -> None:
    """Make a subclass the pytree that the original is. Equinox' own do so by themselves."""

    def flatten(module: Any) -> tuple[list[Any], Any]:
        as_it_was = copied(module, original)
        leaves, structure = jax.tree_util.tree_flatten(as_it_was, is_leaf=lambda node: node is not as_it_was)
        return leaves, structure

    def unflatten(structure: Any, leaves: Any) -> Any:
        return copied(structure.unflatten(leaves), made)

    jax.tree_util.register_pytree_node(made, flatten, unflatten)
