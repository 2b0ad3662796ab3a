"""A proposed table as a person reads it in a terminal: the model, the table to paste, what was not found."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from harness.report.summary import grouped
from harness.run.proposing.proposal import Proposal
from harness.run.proposing.rows import Module, ProposedRow
from harness.taps import kind_of

NUMBERED = re.compile(r"(?<![0-9A-Za-z])\d+(?![0-9A-Za-z])")


def print_proposal(proposal: Proposal, console: Console) -> None:
    among = "" if proposal.discovered is None else f", among {proposal.discovered:,} variables"
    console.print(f"case {proposal.case}, {proposal.tokens} tokens, {proposal.precision}{among}\n")
    if proposal.note:
        console.print(Text(proposal.note + "\n"))
    console.print(_tree(proposal.modules))
    console.print()
    for line in (*_table(proposal.rows), *_left_over(proposal)):
        console.print(Text(line), soft_wrap=True)  # what is pasted has no line breaks of the terminal's


def _tree(modules: Iterable[Module]) -> Tree:
    """Sub-modules by path, and functions below them; layers that are alike are one."""
    root = Tree("model")
    at: dict[str, Tree] = {"": root}
    shown: dict[str, tuple[tuple[str, str], ...]] = {}
    for module in modules:
        path = NUMBERED.sub("{i}", module.path) if ":" not in module.path else module.path
        if shown.get(path) == module.values:
            continue
        if path in shown:
            path = module.path
        shown[path] = module.values
        line = Text.assemble(_name(path), "  ", (_shapes(module), "dim"))
        if ":" in path:
            at.setdefault(":", Tree("functions")).add(line)
            continue
        _node(at, path).label = line if path else Text.assemble("model  ", (_shapes(module), "dim"))
    if ":" in at:
        root.children.append(at[":"])
    return root


def _node(at: dict[str, Tree], path: str) -> Tree:
    """The node of a path, with all that it lies in."""
    if path not in at:
        parent = _node(at, path.rpartition(".")[0])
        at[path] = parent.add(_name(path))
    return at[path]


def _name(path: str) -> str:
    return path if ":" in path else path.rpartition(".")[2]


def _shapes(module: Module) -> str:
    given = [
        f"{field[1:-1]}: {shape}" if not field[1].isdigit() else shape
        for field, shape in module.values
        if field[:1] == "("
    ]
    returned = [f"{field} {shape}".strip() for field, shape in module.values if field[:1] != "("]
    return f"({', '.join(given)}) -> {', '.join(returned) or 'nothing with floats'}"


def _table(rows: Iterable[ProposedRow]) -> Iterator[str]:
    yield "taps = {"
    for row in rows:
        tap = json.dumps(row.tap)
        right = tap if row.layout is None else f"To({tap}, {json.dumps(row.layout)})"
        yield f"    {json.dumps(row.left)}: {right},{_said(row)}"
        if row.place:
            yield f"    #   {row.place}"
    yield "}"


def _said(row: ProposedRow) -> str:
    """How well it matches, what is wrong, what it could be as well."""
    said = [] if row.noise is None else [f"{row.noise[0]:.2g} x noise, of limit {row.noise[1]:.2g}"]
    if row.wrong:
        said.append(f"WRONG at {_several(row.wrong)}, by {row.far:.2g} of its size: it stands there by data flow")
    said += [row.told] * bool(row.told)
    if row.also:
        said.append(f"ambiguous: the golden's {', '.join(row.also)} is the same")
    return f"  # {'; '.join(said)}" if said else ""


def _several(names: Sequence[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def _absent(proposal: Proposal) -> Iterator[str]:
    """Taps of one kind whose place something else has, together."""
    for alike in grouped(proposal.absent, lambda absent: kind_of(absent.tap)).values():
        first = alike[0]
        names = _several([absent.tap for absent in alike])
        yield f"\nNOT THERE: {names}; {', '.join(first.instead)} is read in its place at {first.place}"


def _left_over(proposal: Proposal) -> Iterator[str]:
    yield from _absent(proposal)
    if proposal.logits is False:
        yield "\nthe logits are not the golden's: the head is wrong as well, or something that was not found"
    if not proposal.missing:
        return
    yield "\nnot found (left out of the table they are reported as not covered):"
    for kind, names in grouped(proposal.missing, kind_of).items():
        yield f"    {kind}: {_several(names)}"
    if proposal.discovered is not None:
        yield "hint: no variable of the program equals them: they are inside a kernel, or part of a larger array"
        return
    hint = "no value that the model's sub-modules and functions are given or return equals them"
    yield f"hint: {hint}; try --discover, a row of another function, with `in` and `#`, or another layout"
    if proposal.functions:
        yield f"functions that were called: {', '.join(proposal.functions)}"
