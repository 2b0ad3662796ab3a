"""A Keras 3 model, on its JAX backend, as a port: calls of its layers are marked by path, while it is traced."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from harness.architecture import Config
from harness.errors import HarnessError, PortError
from harness.run.adapters.base import AdaptedPort
from harness.run.adapters.calls import marked_call
from harness.run.adapters.table import Row
from harness.run.adapters.tree import has_nothing, has_nothing_to_call
from harness.run.tracing.program import Ids, Mask


class KerasPort(AdaptedPort):
    """A port of a Keras model. Write `load`, which ends in `return cls(model, config, dtype)`, and `run`.

    A path follows attributes and list indices, and, where there is no such attribute, the names of a model's
    layers and operations: `backbone.transformer_layer_0`, `blocks.{i}.attention`, and in a functional model
    `dense_1`, or `add` for a sum. The path's last name may be that of a method of a layer. Arguments and results
    are those of the layer's `call`, in its compute dtype. The model has to be built. While it is traced its layers
    have another `call`, and afterwards their own again.

    Raises:
        PortError: Keras is missing, or on another backend; the table names a path at which the model has nothing.
    """

    given = ("model", "input_ids", "positions", "mask")

    def __init__(self, model: Any, config: Config, dtype: Any) -> None:
        super().__init__(config, dtype)
        _refuse_another_backend()
        self.model = model
        self._places = _places(model, self.rows)
        self._dtype = jnp.dtype(dtype).name

    @property
    def notes(self) -> tuple[str, ...]:
        """What the report has to say: also where the model's dtype policy is not of the check's dtype."""
        computes = getattr(self.model, "compute_dtype", self._dtype)
        if computes == self._dtype:
            return super().notes
        policy = self.model.dtype_policy.name
        return (*super().notes, f"{self._dtype}: the model computes in {computes} (its dtype policy is {policy})")

    def run(self, model: Any, input_ids: Ids, positions: Ids, mask: Mask, *cache: Any) -> Any:
        """Call the model; returns logits [batch, position, vocab], or with a cache (logits, cache)."""
        raise NotImplementedError

    def _model(self, input_ids: Ids, positions: Ids, mask: Mask, *cache: Any) -> tuple[Any, Mapping[str, Array]]:
        with contextlib.ExitStack() as stack:
            for layer, method, rows in self._places:
                stack.enter_context(_marking(layer, method, rows))
            return self.run(self.model, input_ids, positions, mask, *cache), {}


def _refuse_another_backend() -> None:
    try:
        from keras import config
    except ImportError as error:
        raise PortError(
            "this port is of a Keras model, and Keras 3 cannot be imported",
            where="import keras",
            expected="Keras 3",
            found=error,
            hint="pip install keras, and set KERAS_BACKEND=jax",
        ) from None
    if config.backend() != "jax":
        raise PortError(
            "Keras runs on another backend than JAX",
            where="keras.config.backend()",
            expected="jax",
            found=config.backend(),
            hint="set KERAS_BACKEND=jax in the environment: Keras reads it when it is first imported",
        )


Place = tuple[Any, str, tuple[Row, ...]]  # a layer, a method of it, and its rows


def _places(model: Any, rows: Sequence[Row]) -> list[Place]:
    """Every method that the rows name, with its rows: two paths may lead to one layer."""
    found: dict[tuple[int, str], Place] = {}
    for row in rows:
        layer, method = _place(model, row.path)
        before = found.get((id(layer), method), (layer, method, ()))[2]
        found[id(layer), method] = (layer, method, (*before, row))
    return list(found.values())


def _place(model: Any, path: str) -> tuple[Any, str]:
    """The layer at a path, and which of its methods: the path's last name, or `call`."""
    from keras import Operation

    parent, node = None, model
    for part in path.split("."):
        parent, node = node, _child(node, part)
        if node is None:
            raise has_nothing(path, part, parent, _names(parent))
    if isinstance(node, Operation):
        return node, "call"
    if isinstance(parent, Operation) and getattr(node, "__self__", None) is parent:
        return parent, path.rpartition(".")[2]
    raise has_nothing_to_call(path, node, "is no Keras layer or operation")


def _child(node: Any, part: str) -> Any:
    if isinstance(node, Mapping):
        return node.get(part)
    if part.isdigit() and isinstance(node, (list, tuple)):
        return node[int(part)] if int(part) < len(node) else None
    return getattr(node, part, None) or _operations(node).get(part)


def _operations(node: Any) -> dict[str, Any]:
    """A model's layers by name; in a functional model the operations between them as well."""
    return {one.name: one for one in getattr(node, "operations", getattr(node, "layers", ()))}


def _names(node: Any) -> list[str]:
    from keras import Operation

    if not isinstance(node, Operation):
        return []

    def holds_layers(value: Any) -> bool:
        several = list(value.values()) if isinstance(value, Mapping) else value
        return isinstance(several, (list, tuple)) and any(isinstance(one, Operation) for one in several)

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
