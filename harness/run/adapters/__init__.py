"""Ports of models that nobody edits: their intermediates are found by path, recorded, and in replay replaced.

table.py      which place is which tap: sub-modules, functions, calls
caches.py     where in a cache the keys and values lie
layout.py     how a model's value lies in memory, and how the tap's does
routed.py     a choice of experts, as weights and indices
cutting.py    values that are padded with zeros
base.py       what all kinds have in common
places.py     the places of a table, while the model is traced
calls.py      one call with its taps marked
outputs.py    items of what is returned
named.py      named arrays of Haliax
replaced.py   functions, by the module in which they are looked up
running.py    what has to be running
meshes.py     the mesh around a trace
nnx.py        a Flax nnx module tree
linen.py      a Flax linen module
equinox.py    an Equinox model, or another tree of dataclasses
keras.py      a Keras 3 model on its JAX backend
function.py   a function that returns its intermediates in a dict
tree.py       where things are stored in a tree, and copies with something replaced
"""

from harness.run.adapters.base import To
from harness.run.adapters.equinox import EquinoxPort
from harness.run.adapters.function import FunctionPort
from harness.run.adapters.keras import KerasPort
from harness.run.adapters.linen import LinenPort
from harness.run.adapters.meshes import on_mesh
from harness.run.adapters.nnx import NnxPort
from harness.run.adapters.routed import Routed, normed
from harness.run.slots import causal, first_slot

__all__ = [
    "EquinoxPort",
    "FunctionPort",
    "KerasPort",
    "LinenPort",
    "NnxPort",
    "Routed",
    "To",
    "causal",
    "first_slot",
    "normed",
    "on_mesh",
]
