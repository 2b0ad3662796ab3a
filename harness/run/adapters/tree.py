"""Where things are stored in a tree of objects, lists and dicts, and copies of it with something replaced."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.errors import PortError


def stored(node: Any, name: str) -> Any:
    """What an object, a list or a dict has stored under a name or an index; None if nothing."""
    if isinstance(node, Mapping):
        return node.get(_key(node, name))
    if isinstance(node, (list, tuple)) and name.isdigit():
        return node[int(name)] if int(name) < len(node) else None
    if hasattr(node, "_fields"):
        return getattr(node, name, None) if name in node._fields else None
    return getattr(node, "__dict__", {}).get(name)


def replaced(node: Any, path: Sequence[str], change: Callable[[Any], Any]) -> Any:
    """A copy of a tree, in which what is stored at a path is `change` of it. All else is shared with the tree."""
    if not path:
        return change(node)
    name, *rest = path
    child = replaced(stored(node, name), rest, change)
    if isinstance(node, Mapping):
        return type(node)({**node, _key(node, name): child})  # type: ignore[call-arg]
    if hasattr(node, "_replace"):
        return node._replace(**{node._fields[int(name)] if name.isdigit() else name: child})
    if isinstance(node, (list, tuple)):
        return type(node)([*node[: int(name)], child, *node[int(name) + 1 :]])
    return copied(node, type(node), {name: child})


def copied(node: Any, kind: Any, changes: Mapping[str, Any] | None = None) -> Any:
    """A shallow copy of an object, frozen or not, as an instance of `kind`, with some attributes replaced."""
    new = object.__new__(kind)
    for name, value in {**vars(node), **(changes or {})}.items():
        object.__setattr__(new, name, value)
    return new


def has_nothing(path: str, part: str, node: Any, names: Sequence[str] = ()) -> PortError:
    """The refusal of a path at which there is nothing, with what there is."""
    return PortError(
        "the model has nothing at a path of the port's table",
        where=f"{path}, at {part!r}",
        expected="a sub-module, or a method of one",
        found=f"a {type(node).__name__} with {', '.join(names or _names(node)) or 'nothing in it'}",
        hint="correct the path in the table",
    )


def has_nothing_to_call(path: str, node: Any, lacks: str = "cannot be called") -> PortError:
    """The refusal of a path at which there is something else than a sub-module."""
    return PortError(
        f"what the model has at a path of the port's table {lacks}",
        where=path,
        expected="a sub-module, or a method of one",
        found=type(node).__name__,
        hint="name the sub-module whose output is the tap",
    )


def _key(node: Mapping[Any, Any], name: str) -> Any:
    return int(name) if name not in node and name.isdigit() else name


def _names(node: Any) -> list[str]:
    if isinstance(node, Mapping):
        return [str(key) for key in node]
    if hasattr(node, "_fields"):
        return list(node._fields)
    if isinstance(node, (list, tuple)):
        return [f"0 to {len(node) - 1}"] if node else []
    return [name for name in getattr(node, "__dict__", {}) if not name.startswith("_")]


def called(path: str, node: Any, framework: frozenset[str]) -> list[str]:
    """What of a sub-module can be called, by path: itself, and the methods that its own classes write.

    Args:
        framework: packages whose classes are not the model's own.
    """
    own = [
        kind for kind in type(node).__mro__ if kind.__module__.partition(".")[0] not in {*framework, "builtins"}
    ]
    names = dict.fromkeys(name for kind in own for name, held in vars(kind).items() if inspect.isfunction(held))
    methods = [name for name in names if not name.startswith("__")]
    itself = [path] if path and callable(node) else []
    return itself + [f"{path}.{name}" if path else name for name in methods]
