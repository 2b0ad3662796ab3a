"""Ports of models that nobody edits: their intermediates are found by path, recorded, and in replay replaced.

table.py      which path is which tap
layout.py     how a model's value lies in memory, and how the tap's does
base.py       what all kinds have in common
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
from harness.run.adapters.nnx import NnxPort

__all__ = ["EquinoxPort", "FunctionPort", "KerasPort", "LinenPort", "NnxPort", "To"]
