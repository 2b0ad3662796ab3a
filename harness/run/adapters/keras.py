"""A Keras 3 model, on its JAX backend, as a port: calls of its layers are marked by path, while it is traced."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from harness.architecture import Config
from harness.errors import HarnessError, PortError
from harness.run.adapters.calls import marked_call
from harness.run.adapters.table import Row
from harness.run.adapters.tree import Methods, ModelPort, child_of, modules_in, placed
from harness.run.tracing.program import Ids, Mask

# What Keras asks of every layer, and what it calls by itself.
ASKED = frozenset({"call", "build", "get_config", "from_config", "compute_output_shape", "compute_output_spec"})


class KerasPort(ModelPort):
    """A port of a Keras model. Write `load`, which ends in `return cls(model, config, dtype)`, and `run`.

    A path follows attributes and list indices, and, where there is no such attribute, the names of a model's
    layers and operations: `backbone.transformer_layer_0`, `blocks.{i}.attention`, and in a functional model
    `dense_1`, or `add` for a sum. The path's last name may be that of a method of a layer. Arguments and results
    are those of the layer's `call`, in its compute dtype. The model has to be built. While it is traced its layers
    have another `call`, and afterwards their own again.

    Raises:
        PortError: Keras is missing, or on another backend; the table names a path at which the model has nothing.
    """

    framework = frozenset({"keras"})

    def __init__(self, model: Any, config: Config, dtype: Any) -> None:
        _refuse_another_backend()
        super().__init__(model, config, dtype)
        self._dtype = jnp.dtype(dtype).name

    @property
    def notes(self) -> tuple[str, ...]:
        """What the report has to say: also where the model's dtype policy is not of the check's dtype."""
        computes = getattr(self.model, "compute_dtype", self._dtype)
        if computes == self._dtype:
            return super().notes
        policy = self.model.dtype_policy.name
        return (*super().notes, f"{self._dtype}: the model computes in {computes} (its dtype policy is {policy})")

    def paths(self) -> list[str]:
        return [path for path in super().paths() if path.rpartition(".")[2] not in ASKED]

    def sub_modules(self) -> list[tuple[str, Any]]:
        from keras import Operation

        return [(where, layer) for where, layer in modules_in(self.model, Operation, _inside) if where]

    def _place(self, rows: tuple[Row, ...]) -> list[tuple[Any, Methods]]:
        from keras import Operation

        kind = "Keras layer or operation"
        return placed(self.model, rows, Operation, "call", _child, _names, kind)

    def _model(self, input_ids: Ids, positions: Ids, mask: Mask, *cache: Any) -> tuple[Any, Mapping[str, Array]]:
        with contextlib.ExitStack() as stack:
            for layer, methods in self._placed:
                for method, rows in methods.items():
                    stack.enter_context(_marking(layer, method, rows))
            return self.run(self.model, input_ids, positions, mask, *cache), {}


def _refuse_another_backend() -> None:
    try:
        from keras import config
    except ImportError as error:
        problem = "this port is of a Keras model, and Keras 3 cannot be imported"
        hint = "pip install keras, and set KERAS_BACKEND=jax"
        raise PortError(problem, "import keras", "Keras 3", error, hint=hint) from None
    if config.backend() != "jax":
        problem = "Keras runs on another backend than JAX"
        hint = "set KERAS_BACKEND=jax in the environment: Keras reads it when it is first imported"
        raise PortError(problem, "keras.config.backend()", "jax", config.backend(), hint=hint)


def _inside(layer: Any) -> list[tuple[str, Any]]:
    # Names of their own come first: a functional model has its layers in a list `_operations` as well.
    names = sorted(_names(layer), key=lambda name: (name.startswith("_"), name not in vars(layer)))
    return [(name, _child(layer, name)) for name in names]


def _child(node: Any, part: str) -> Any:
    child = child_of(node, part)
    return _operations(node).get(part) if child is None else child


def _operations(node: Any) -> dict[str, Any]:
    """A model's layers by name; in a functional model the operations between them as well."""
    return {operation.name: operation for operation in getattr(node, "operations", getattr(node, "layers", ()))}


def _names(node: Any) -> list[str]:
    from keras import Operation

    if not isinstance(node, Operation):
        return []

    def holds_layers(value: Any) -> bool:
        several = list(value.values()) if isinstance(value, Mapping) else value
        return isinstance(several, (list, tuple)) and any(isinstance(held, Operation) for held in several)

    stored = {name for name, value in vars(node).items() if isinstance(value, Operation) or holds_layers(value)}
    return sorted({*stored, *_operations(node)} - {"_layers"})  # those are all of them, as Keras tracks them


@contextlib.contextmanager
def _marking(layer: Any, method: str, rows: tuple[Row, ...]) -> Iterator[None]:
    """While this lasts a layer's method marks its arguments and results. Keras' own bookkeeping sees nothing."""
    call = getattr(layer, method)

    @functools.wraps(call)
    def marked(*args: Any, **kwargs: Any) -> Any:
        try:
            return marked_call(rows, call, args, kwargs)
        except HarnessError as error:
            error._keras_call_info_injected = True  # type: ignore[attr-defined]  # Keras hands it on as it is
            raise

    vars(layer)[method] = marked
    try:
        yield
    finally:
        del vars(layer)[method]
