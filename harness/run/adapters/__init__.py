"""Ports of models that nobody edits: their intermediates are found by path, recorded, and in replay replaced.

table.py      which place is which tap: sub-modules, functions, calls
caches.py     where in a cache the keys and values lie
layout.py     how a model's value lies in memory, and how the tap's does; what is padded with zeros
routed.py     a choice of experts, as weights and indices
base.py       what all kinds have in common
places.py     the places of a table, while the model is traced
calls.py      one call with its taps marked, or all that it is given and returns
outputs.py    items of what is returned; named arrays of Haliax
replaced.py   functions, by the module in which they are looked up
variables.py  variables of the finished program, by function and primitive
running.py    what is in force while a model is traced: what is running, indices of one type, the mesh
flax.py       Flax modules: an nnx module tree, a linen module
equinox.py    an Equinox model, or another tree of dataclasses
keras.py      a Keras 3 model on its JAX backend
function.py   a function that returns its intermediates in a dict
tree.py       models that hold their sub-modules: what lies at a path, and copies with something replaced
"""

from harness.run.adapters.base import To
from harness.run.adapters.equinox import EquinoxPort
from harness.run.adapters.flax import LinenPort, NnxPort
from harness.run.adapters.function import FunctionPort
from harness.run.adapters.keras import KerasPort
from harness.run.adapters.routed import Routed, normed
from harness.run.adapters.running import on_mesh
from harness.run.cache import causal, first_slot

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
