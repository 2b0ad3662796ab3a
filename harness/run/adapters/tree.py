"""Ports of models that hold their sub-modules: what lies at a path, and copies with something replaced there."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

from harness.architecture import Config
from harness.errors import PortError
from harness.run.adapters.base import AdaptedPort
from harness.run.adapters.calls import marked_call
from harness.run.adapters.table import Row, by_path
from harness.run.tracing.program import Ids, Mask


class ModelPort(AdaptedPort):
    """A port of an object that holds sub-modules. Each kind says what these are, and how they mark their values.

    Attributes:
        framework: packages whose classes are not the model's own.

    Raises:
        PortError: the table names a path at which the model has nothing, or nothing that can be called.
    """

    framework: ClassVar[frozenset[str]]

    def __init__(self, model: Any, config: Config, dtype: Any) -> None:
        super().__init__(config, dtype)
        self.model = model
        self._placed = self._place(self.rows)  # a wrong path is refused now, not in the middle of a forward pass

    def paths(self) -> list[str]:
        return [path for where, node in self.sub_modules() for path in called(where, node, self.framework)]

    def marking(self, rows: tuple[Row, ...]) -> Self:
        port = super().marking(rows)
        port._placed = port._place(rows)
        return port

    def run(self, model: Any, input_ids: Ids, positions: Ids, mask: Mask, *cache: Any) -> Any:
        """Call the model; returns logits [batch, position, vocab], or with a cache (logits, cache)."""
        raise NotImplementedError

    def _place(self, rows: tuple[Row, ...]) -> Any:
        """The rows at their places in the model."""
        raise NotImplementedError


Methods = Mapping[str, tuple[Row, ...]]  # rows by method
Marks = tuple[tuple[str, tuple[Row, ...]], ...]  # the same, hashable


@functools.cache
def marking(original: Any, marks: Marks) -> Any:
    """A subclass whose methods mark their arguments and results.

    It is one of its own for every set of rows: where JAX takes a module apart the class goes along, and its rows.
    """

    def marked(name: str, rows: tuple[Row, ...]) -> Callable[..., Any]:
        @functools.wraps(getattr(original, name))
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            # Looked up when it is called: somebody may have replaced it since.
            return marked_call(rows, getattr(super(made, self), name), args, kwargs)

        return call

    methods = {name: marked(name, rows) for name, rows in marks}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the original's class was warned of, it is warned of again
        made = type(original)(original.__name__, (original,), {"__module__": original.__module__, **methods})
    return made


def placed(
    model: Any,
    rows: Iterable[Row],
    kind: type,
    usual: str,
    child: Callable[[Any, str], Any],
    names: Callable[[Any], Sequence[str]],
    called: str,
) -> list[tuple[Any, Methods]]:
    """Every sub-module that rows name, with its rows by method: two paths may lead to one.

    Args:
        kind: of sub-modules, which messages call `called`.
        usual: the method that a path means which names none.
        child: what an object has under a name.
        names: of what an object holds, for messages.

    Raises:
        PortError: there is none at a path.
    """

    def method_at(path: str) -> tuple[Any, str]:
        parent, node = None, model
        for part in path.split("."):
            parent, node = node, child(node, part)
            if node is None:
                raise has_nothing(path, part, parent, names(parent))
        if isinstance(node, kind) and callable(node):
            return node, usual
        if isinstance(parent, kind) and getattr(node, "__self__", None) is parent:
            return parent, path.rpartition(".")[2]
        raise has_nothing_to_call(path, node, "cannot be called" if isinstance(node, kind) else f"is no {called}")

    modules: dict[int, tuple[Any, dict[str, tuple[Row, ...]]]] = {}
    for path, own in by_path(rows).items():
        module, method = method_at(path)
        methods = modules.setdefault(id(module), (module, {}))[1]
        methods[method] = (*methods.get(method, ()), *own)
    return list(modules.values())


def modules_in(
    model: Any, kind: type, inside: Callable[[Any], Iterable[tuple[Any, Any]]]
) -> list[tuple[str, Any]]:
    """Every sub-module once, by the first path that leads to it, which of the model itself is empty.

    Args:
        inside: what a sub-module holds, by name.
    """
    modules: dict[int, tuple[str, Any]] = {}

    def collect(node: Any, where: tuple[str, ...]) -> None:
        inner: Iterable[tuple[Any, Any]] = ()
        if isinstance(node, kind) and id(node) not in modules:
            modules[id(node)] = ".".join(where), node
            inner = inside(node)
        elif isinstance(node, Mapping):
            inner = node.items()
        elif isinstance(node, (list, tuple)):
            inner = enumerate(node)
        for name, child in inner:
            collect(child, (*where, str(name)))

    collect(model, ())
    return list(modules.values())


def child_of(node: Any, part: str) -> Any:
    """What an object, a list or a mapping has under a name: an attribute, an item; None if nothing."""
    if isinstance(node, Mapping):
        return node.get(_key(node, part))
    if part.isdigit() and hasattr(node, "__getitem__"):
        return node[int(part)] if int(part) < len(node) else None
    return getattr(node, part, None)


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
    problem, hint = "the model has nothing at a path of the port's table", "correct the path in the table"
    found = f"a {type(node).__name__} with {', '.join(names or _names(node)) or 'nothing in it'}"
    if part.isdigit():
        hint += "; what follows the last layer has a row of its own: 'norm(0)' -> 'layers.{last}.resid_post'"
    return PortError(problem, f"{path}, at {part!r}", "a sub-module, or a method of one", found, hint=hint)


def has_nothing_to_call(path: str, node: Any, lacks: str = "cannot be called") -> PortError:
    """The refusal of a path at which there is something else than a sub-module."""
    problem = f"what the model has at a path of the port's table {lacks}"
    hint = "name the sub-module whose output is the tap"
    return PortError(problem, path, "a sub-module, or a method of one", type(node).__name__, hint=hint)


def _key(node: Mapping[Any, Any], name: str) -> Any:
    return int(name) if name not in node and name.isdigit() else name


def _names(node: Any) -> list[str]:
    if isinstance(node, Mapping):
        return [str(key) for key in node]
    if hasattr(node, "_fields"):
        return list(node._fields)
    if hasattr(node, "__len__"):
        return [f"0 to {len(node) - 1}"] if len(node) else []
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
