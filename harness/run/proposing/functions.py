"""Functions that may hold taps: those of the model's own modules, and a few of JAX that these call."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, ModuleType
from typing import Any

# Not the model's own: their functions are its parts, and not its operations.
FRAMEWORKS = frozenset({
    "builtins", "einops", "equinox", "flax", "functools", "haliax", "harness", "jax", "jaxlib", "jaxtyping",
    "keras", "math", "numpy", "typing",
})  # fmt: skip
# Of these the model has taps: attention's probabilities, activations, products.
KNOWN = {
    "jax.nn": ("softmax", "silu", "swish", "gelu", "relu", "dot_product_attention"),
    "flax.linen": ("softmax", "silu", "swish", "gelu", "relu"),
    "flax.nnx": ("softmax", "silu", "swish", "gelu", "relu"),
    "jax.numpy": ("einsum", "matmul", "dot", "where"),
    "keras.ops": ("softmax", "einsum", "matmul"),
}
# These are called in packages that the model's own modules use, and not only in these.
ANYWHERE = {"jax.nn": ("softmax",), "jax._src.nn.functions": ("softmax",)}  # the second in dot_product_attention


def function_paths(classes: Iterable[type], function: Callable[..., Any]) -> tuple[str, ...]:
    """The functions to watch, `package.module:name`, each where it is looked up.

    Args:
        classes: of the model's sub-modules.
        function: the port's `run`.
    """
    names = {kind.__module__ for one in classes for kind in one.__mro__} | {function.__module__}
    modules = [sys.modules[name] for name in sorted(names) if is_own(name) and name in sys.modules]
    around = {id(module): module for module in modules}
    for module in modules:  # `utils.shard(x)`: a function of another module of the same package
        for held in vars(module).values():
            if isinstance(held, ModuleType) and _package(held.__name__) == _package(module.__name__):
                around.setdefault(id(held), held)
    own = [f"{module.__name__}:{name}" for module in around.values() for name in _functions(module)]
    called = {name for module in around.values() for name in _names(module)}
    known = [
        f"{module}:{name}"
        for module, names in KNOWN.items()
        for name in names
        if name in called and _has(module, name)
    ]
    inside = [f"{module}:{name}" for module, names in ANYWHERE.items() for name in names if _has(module, name)]
    return (*dict.fromkeys([*own, *known, *inside]),)


def is_own(module: str) -> bool:
    """Whether a module may be the model's own."""
    return _package(module) not in FRAMEWORKS


def _package(name: str) -> str:
    return name.partition(".")[0]


def _functions(module: ModuleType) -> Iterator[str]:
    """A module's functions, and those that it has imported from its package; jitted ones too."""
    for name, held in vars(module).items():
        original = inspect.unwrap(held) if callable(held) and not inspect.isclass(held) else None
        if inspect.isfunction(original) and name.isidentifier() and is_own(original.__module__ or ""):
            yield name


def _names(module: ModuleType) -> Iterator[str]:
    """All names that a module's own code looks up."""
    for held in list(vars(module).values()):
        if getattr(held, "__module__", None) != module.__name__:
            continue
        inside = vars(held).values() if inspect.isclass(held) else [held]
        for one in inside:
            original = inspect.unwrap(one) if callable(one) else None
            if inspect.isfunction(original):
                yield from _names_in(original.__code__)


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _has(module: str, name: str) -> bool:
    return hasattr(sys.modules.get(module), name)
