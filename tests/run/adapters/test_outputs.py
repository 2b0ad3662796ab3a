"""What a sub-module returns: an item is replaced, and what comes back is of the type that went out."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple

import jax
import jax.numpy as jnp
import pytest
from flax import nnx, struct
from flax.core import FrozenDict

from harness.errors import PortError
from harness.run.adapters.calls import marked_call
from harness.run.adapters.outputs import MISSING, item_of, with_item
from harness.run.adapters.table import Row

OLD, NEW = jnp.zeros(2), jnp.ones(2)


class WithAttributes(OrderedDict):
    """As EasyDeL and Hugging Face have it."""

    def __getattr__(self, name):
        return self[name]


class InBoth(dict):
    def __init__(self, hidden):
        super().__init__(hidden=hidden)
        self.hidden = hidden


@dataclasses.dataclass
class Data:
    hidden: jax.Array
    cache: None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    hidden: jax.Array


@struct.dataclass
class Struct:
    hidden: jax.Array


class Object(nnx.Pytree):
    def __init__(self, hidden):
        self.hidden = hidden


class Pair(tuple):
    pass


Named = namedtuple("Named", ["hidden", "cache"])
RESULTS = [
    ((OLD, None), 0),
    ([None, OLD], 1),
    ((None, OLD), -1),
    (Pair((OLD, None)), 0),
    (Named(OLD, None), 0),
    (Named(OLD, None), "hidden"),
    ({"hidden": OLD, "cache": None}, "hidden"),
    ({0: OLD}, 0),
    (WithAttributes(hidden=OLD, cache=None), "hidden"),
    (InBoth(OLD), "hidden"),
    (FrozenDict(hidden=OLD), "hidden"),
    (Data(OLD), "hidden"),
    (Slotted(OLD), "hidden"),
    (Struct(OLD), "hidden"),
    (Object(OLD), "hidden"),
    (OLD, None),
    (OLD, 0),  # x, where another call returns (x, cache)
    (OLD, -1),
]


@pytest.mark.parametrize(("result", "item"), RESULTS, ids=lambda value: type(value).__name__)
def test_an_item_is_replaced_in_an_object_of_the_same_type(result, item):
    assert item_of(result, item) is OLD
    made = with_item(result, item, NEW)
    assert type(made) is type(result)
    assert item_of(made, item) is NEW
    assert item_of(result, item) is OLD, "the model's own object is left as it was"
    if isinstance(made, (WithAttributes, InBoth)):
        assert made.hidden is NEW
    if hasattr(result, "cache") or isinstance(result, tuple):
        assert len(made) == len(result) if isinstance(result, tuple) else made.cache is None


@pytest.mark.parametrize(
    ("result", "item"),
    [(OLD, 1), (OLD, "hidden"), ((OLD,), 1), ((OLD,), "hidden"), ({"a": OLD}, "b"), (Data(OLD), "hiden")],
)
def test_what_a_result_does_not_have_is_missing(result, item):
    assert item_of(result, item) is MISSING


class Computed:
    """Its item cannot be set."""

    @property
    def hidden(self):
        return OLD


def test_an_item_that_cannot_be_replaced_is_refused():
    with pytest.raises(PortError, match="cannot be replaced") as caught:
        marked_call([Row("layer", "hidden", None, "embed", None)], Computed, (), {})
    assert "where:    layer[hidden]" in str(caught.value)
    assert "a Computed" in str(caught.value)


def test_a_field_that_a_dataclass_does_not_have_is_refused_with_those_it_has():
    with pytest.raises(PortError, match="does not return an array") as caught:
        marked_call([Row("layer", "hiden", None, "embed", None)], lambda: Data(OLD), (), {})
    assert "a Data with hidden, cache" in str(caught.value)
