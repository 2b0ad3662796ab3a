"""Ports of models that nobody edits: their intermediates are found by path, recorded, and in replay replaced.

table.py      which path is which tap
caches.py     where in a cache the keys and values lie
layout.py     how a model's value lies in memory, and how the tap's does
base.py       what the three kinds have in common
nnx.py        a Flax nnx module tree
linen.py      a Flax linen module
function.py   a function that returns its intermediates in a dict
"""

from harness.run.adapters.base import To
from harness.run.adapters.function import FunctionPort
from harness.run.adapters.linen import LinenPort
from harness.run.adapters.nnx import NnxPort
from harness.run.slots import causal, first_slot

__all__ = ["FunctionPort", "LinenPort", "NnxPort", "To", "causal", "first_slot"]
