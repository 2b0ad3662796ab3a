"""The table of a port: which path in the model is which tap.

    "layers.{i}.mlp.gate_proj": "layers.{i}.gate"        what the sub-module returns
    "layers.{i}.attn[1]": "layers.{i}.attn_out"          item 1 of what it returns, or a key: [hidden]
    "layers.{i}.attn.o_proj(0)": "layers.{i}.context"    its first argument, or a named one: (x)
    "embedder.encode": "embed"                           another method than __call__
    "layers.mlp": "layers.{i}.mlp_out"                   {i} on the right alone: the iteration of a scan

Every row is used exactly as it stands; nothing is matched by similarity.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.architecture import Architecture
from harness.errors import PortError
from harness.families.graph import taps_of
from harness.taps import Tap, kind_of

LAYER = "{i}"
ROW = re.compile(r"(?P<path>[^\[\]()\s]+)(?:\[(?P<item>\w+)\]|\((?P<argument>\w+)\))?")


@dataclass(frozen=True)
class To:
    """The right side of a row, where the model's value has another layout than the tap (`layout.py`)."""

    tap: str
    layout: str | None = None


@dataclass(frozen=True)
class Row:
    """One place in the model and the tap that it is.

    Attributes:
        path: of the sub-module, with a method's name at the end where it is not `__call__`.
        item: which item of what it returns; None for all of it.
        argument: which argument instead, by position or name; None for what it returns.
        tap: the tap's full name; with `{i}` where a scan counts.
        layout: how the model's value lies; None where it is as the tap's.
    """

    path: str
    item: int | str | None
    argument: int | str | None
    tap: str
    layout: str | None

    @property
    def kind(self) -> str:
        return kind_of(self.tap)


def rows(table: Mapping[str, str | To], arch: Architecture) -> tuple[Row, ...]:
    """The table with `{i}` written out for every layer.

    Raises:
        PortError: a malformed row, a tap that the architecture does not have, or one that stands twice.
    """
    known = {tap.name: tap for tap in taps_of(arch)}
    found = [row for left, right in table.items() for row in _expanded(left, right, arch.layers)]
    for row in found:
        _check(row, known)
    for row in found:
        if sum(other.tap == row.tap for other in found) > 1:
            raise _bad("two rows of the port's table name one tap", row.tap, "one row for every tap")
        if any(other.kind == row.kind and other.layout != row.layout for other in found):
            raise _bad("two rows give one kind of tap two layouts", row.kind, "one layout for every kind")
    return tuple(found)


def _expanded(left: str, right: str | To, layers: int) -> Iterable[Row]:
    target = right if isinstance(right, To) else To(right)
    match = ROW.fullmatch(left)
    if match is None:
        raise _bad("a row of the port's table is malformed", left, "path, path[item] or path(argument)")
    if LAYER in left and LAYER not in target.tap:
        raise _bad("a row has {i} on its left side alone", f"{left} -> {target.tap}", "{i} in the tap's name too")
    for index in range(layers) if LAYER in left else (None,):

        def written_out(text: str, index: int | None = index) -> str:
            return text if index is None else text.replace(LAYER, str(index))

        yield Row(
            written_out(match["path"]),
            _number_or_name(match["item"]),
            _number_or_name(match["argument"]),
            written_out(target.tap),
            target.layout,
        )


def _check(row: Row, known: Mapping[str, Tap]) -> None:
    if row.kind == "logits":
        raise _bad("a row names the logits", row.path, "no row: they are what the port's run() returns")
    if row.tap.replace(LAYER, "0") not in known:
        raise _bad("a row names a tap that the architecture does not have", row.tap, ", ".join(_templates(known)))


def _templates(known: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(re.sub(r"\.\d+\.", ".{i}.", name) for name in known if name != "logits"))


def _number_or_name(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdigit() else text


def _bad(problem: str, where: str, expected: str) -> PortError:
    return PortError(problem, where=where, expected=expected, hint="see the head of harness/run/adapters/table.py")
