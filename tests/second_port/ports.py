"""Bugs of the second port as ports of their own, for the command line."""

from __future__ import annotations

from tests.second_port.bugs import BY_NAME

Interleaved = BY_NAME["rope_neighbours"]
Mish = BY_NAME["activation_mish"]
