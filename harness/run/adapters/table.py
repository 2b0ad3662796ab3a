"""The table of a port: which place in the model is which tap.

    "layers.{i}.mlp.gate_proj": "layers.{i}.gate"        what the sub-module returns
    "layers.{i}.attn[1]": "layers.{i}.attn_out"          item 1 of what it returns, a key or an attribute: [hidden]
    "layers.{i}[0]": "layers.{i}.resid_post"             the first or the last is also an array that comes alone:
                                                         x, where a call with a cache returns (x, cache)
    "layers.{i}.attn.o_proj(0)": "layers.{i}.context"    its first argument, or a named one: (x)
    "embedder.encode": "embed"                           another method than __call__
    "layers.mlp": "layers.{i}.mlp_out"                   {i} on the right alone: the iteration of a scan

A function is named by the module in which it is looked up as it is called, and has items and arguments as well:

    "my_model.layers:embed": "embed"                     what it returns; `my_model.rope:Rope.apply` is a method
    "jax.nn:softmax in layers.{i}.attn"                  its calls while that sub-module runs, and no others
    "my_model.rope:apply_rope#1 in layers.{i}.attn"      of these the second; #-1 is the last
    "my_model.rope:apply_rope#{2i+1}"                    of all of them number 2i + 1, in the order of the calls
    "my_model.norm:rms_norm#0 in my_model.layers:block"  while that function runs

A variable of the program, which no call is given or returns, is named by the function whose own code computes it
and the primitive of JAX, in the order of the calls; `goldens port --discover` finds these:

    "my_model.layers:Block.__call__/add in layers.{i}"   the sum; `#1` where that function adds up more than once
    "my_model.layers:attention/dot_general#{2i+1}(0)"    what the second product of every layer is given first
    "my_model.layers:project/split[2]"                   the third of several results

`in` and `#` are for sub-modules too. What is called more than once has a number. A row that names its layer stands
in place of the row with {i} for that layer, so that a model which folds the residual needs two rows:

    "layers.{i+1}(0)": "layers.{i}.resid_post"           what the next layer is given
    "norm(0)": "layers.{last}.resid_post"                and after the last layer, the final norm

Every row is used exactly as it stands; nothing is matched by similarity.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.architecture import Architecture
from harness.errors import PortError
from harness.families.graph import taps_of
from harness.run.adapters.layout import Cut, without_zeros
from harness.run.adapters.routed import Routed
from harness.taps import Tap, kind_of

LAYER, LAST = "{i}", "{last}"
# {i}, {i+1}, {2i+1}
INDEX = re.compile(r"\{(?P<times>\d*)i(?:(?P<sign>[+-])(?P<more>\d+))?\}")
PLACE = r"[^\[\]()\s#]+"
FIELD = r"\[(?P<item>-?\w+)\]|\((?P<argument>\w+)\)"
ROW = re.compile(rf"(?P<path>{PLACE})(?:#(?P<call>\S+?))?(?:{FIELD})?(?: in (?P<scope>{PLACE}))?")
FUNCTION = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?")
# Code that Python has no name for is `f.<locals>.<lambda>`.
VARIABLE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[\w.<>]+/[a-z_][\w-]*")
NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class To:
    """The right side of a row, where the model's value has another layout than the tap (`layout.py`)."""

    tap: str
    layout: str | None = None


Table = Mapping[str, str | To | Routed]


@dataclass(frozen=True)
class Row:
    """One place in the model and the tap that it is.

    Attributes:
        path: of the sub-module, with a method's name at the end where it is not `__call__`; of a function
            `package.module:name`; of a variable `package.module:name/primitive`.
        item: which item of what it returns; None for all of it.
        argument: which argument instead, by position or name; None for what it returns.
        tap: the tap's full name; with `{i}` where a scan counts. Empty where the row is only a scope: a place
            that others are `in`.
        layout: how the model's value lies; None where it is as the tap's.
        call: which call, from 0; from -1 for the last; None where there is one.
        scope: the path of what has to be running; None for anything.
        cut: the zeros in the model's value that are no part of the tap; None where there are none.
        routed: that it returns weights and indices of experts, and of how many there are; None elsewhere.
    """

    path: str
    item: int | str | None
    argument: int | str | None
    tap: str
    layout: str | None
    call: int | None = None
    scope: str | None = None
    cut: Cut | None = None
    routed: tuple[Routed, int] | None = None

    @property
    def kind(self) -> str:
        return kind_of(self.tap)

    @property
    def is_function(self) -> bool:
        return is_function(self.path)

    @property
    def is_variable(self) -> bool:
        return is_variable(self.path)

    @property
    def site(self) -> str:
        """What it has in common with the other calls at its place."""
        return self._written("")

    def __str__(self) -> str:
        return self._written("" if self.call is None else f"#{self.call}")

    def _written(self, call: str) -> str:
        field = f"({self.argument})" if self.argument is not None else f"[{self.item}]" * (self.item is not None)
        return f"{self.path}{call}{field}" + (f" in {self.scope}" if self.scope else "")


def is_function(path: str) -> bool:
    """Whether a path names a function of a module, and not a sub-module of the model, nor a variable."""
    return ":" in path and not is_variable(path)


def is_variable(path: str) -> bool:
    """Whether a path names a variable of the program: a primitive in a function."""
    return ":" in path and "/" in path


def scopes(table: Iterable[Row]) -> tuple[Row, ...]:
    """The places that rows are `in`, as rows of their own, each once."""
    return at_paths(r.scope for r in table if r.scope)


def at_paths(paths: Iterable[str]) -> tuple[Row, ...]:
    """Places alone, none of them a tap, each once."""
    return tuple(Row(path, None, None, "", None) for path in dict.fromkeys(paths))


def by_path(rows: Iterable[Row]) -> dict[str, tuple[Row, ...]]:
    """Rows by the place that they name."""
    places: dict[str, tuple[Row, ...]] = {}
    for row in rows:
        places[row.path] = (*places.get(row.path, ()), row)
    return places


def rows(table: Table, arch: Architecture) -> tuple[Row, ...]:
    """The table with `{i}` written out for every layer.

    Raises:
        PortError: a malformed row, a tap that the architecture does not have, or one that stands twice.
    """
    known = {tap.name: tap for tap in taps_of(arch)}
    written_out = [(row, has_i) for left, right in table.items() for row, has_i in _expanded(left, right, arch)]
    own = {row.tap for row, has_i in written_out if not has_i}
    kept = [row for row, has_i in written_out if not (has_i and row.tap in own)]
    for row in kept:
        _check(row, known)
    for row in kept:
        if sum(other.tap == row.tap for other in kept) > 1:
            raise bad("two rows of the port's table name one tap", row.tap, "one row for every tap")
        if any(other.kind == row.kind and other.layout != row.layout for other in kept):
            raise bad("two rows give one kind of tap two layouts", row.kind, "one layout for every kind")
    return tuple(kept)


def _expanded(left: str, right: str | To | Routed, arch: Architecture) -> Iterable[tuple[Row, bool]]:
    """The rows that one row of the table stands for, and whether it is one for every layer."""
    routed = right if isinstance(right, Routed) else None
    target = right if isinstance(right, To) else To(right.tap if isinstance(right, Routed) else right)
    layout, cut = (None, None) if target.layout is None else without_zeros(target.layout, fixed_sizes(arch))
    has_i = INDEX.search(left) is not None
    if has_i and LAYER not in target.tap:
        raise bad("a row has {i} on its left side alone", f"{left} -> {target.tap}", "{i} in the tap's name too")
    for index in range(arch.layers) if has_i else (None,):
        match = ROW.fullmatch(_written_out(left, index, arch.layers))
        if match is None or not _well_formed(match):
            raise bad(
                "a row of the port's table is malformed", left, "path#call[item] in scope, or path(argument)"
            )
        row = Row(
            match["path"],
            _number_or_name(match["item"]),
            _number_or_name(match["argument"]),
            _written_out(target.tap, index, arch.layers),
            layout,
            None if match["call"] is None else int(match["call"]),
            match["scope"],
            cut,
            None if routed is None or arch.experts is None else (routed, arch.experts.count),
        )
        yield row, has_i


def fixed_sizes(arch: Architecture) -> dict[str, int]:
    """The dimensions whose sizes the architecture says."""
    varying = ("batch", "position", "slot", "key")
    return {name: size for name, size in arch.sizes(1, 1).items() if name not in varying}


def _written_out(text: str, index: int | None, layers: int) -> str:
    def number(match: re.Match[str]) -> str:
        more = int(f"{match['sign'] or '+'}{match['more'] or 0}")
        return str(int(match["times"] or 1) * (index or 0) + more)

    text = text.replace(LAST, str(layers - 1))
    return text if index is None else INDEX.sub(number, text)


def _well_formed(match: re.Match[str]) -> bool:
    places = [place for place in (match["path"], match["scope"]) if place is not None]
    return (
        not any(brace in place for brace in "{}" for place in places)
        and all(FUNCTION.fullmatch(place) for place in places if is_function(place))
        and (not is_variable(match["path"]) or _names_variable(match))
        and not is_variable(match["scope"] or "")
        and (match["call"] is None or NUMBER.fullmatch(match["call"]) is not None)
    )


def _names_variable(match: re.Match[str]) -> bool:
    """Whether a row of a variable is one: results and operands of a primitive have numbers, and no names."""
    numbers = (match["item"], match["argument"])
    return VARIABLE.fullmatch(match["path"]) is not None and all(
        number is None or number.isdigit() for number in numbers
    )


def _check(row: Row, known: Mapping[str, Tap]) -> None:
    if row.kind == "logits":
        raise bad("a row names the logits", row.path, "no row: they are what the port's run() returns")
    if row.tap.replace(LAYER, "0") not in known:
        raise bad("a row names a tap that the architecture does not have", row.tap, ", ".join(_templates(known)))


def _templates(known: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(re.sub(r"\.\d+\.", ".{i}.", name) for name in known if name != "logits"))


def _number_or_name(text: str | None) -> int | str | None:
    return int(text) if text is not None and NUMBER.fullmatch(text) else text


def bad(problem: str, where: str, expected: str, module: str = "table") -> PortError:
    """The refusal of something in a table; the head of that module says how it is written."""
    hint = f"see the head of harness/run/adapters/{module}.py"
    return PortError(problem, where, expected, hint=hint)
