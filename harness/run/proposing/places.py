"""How a place can be written as a row: what has to be running, and which of its calls it is."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.run.adapters.table import is_function, is_variable
from harness.run.proposing.functions import is_own
from harness.run.proposing.watched import Mark

# Primitives that compute nothing. Which of them a program has depends on its shapes and dtypes.
MOVES = frozenset({
    "broadcast_in_dim", "copy", "dynamic_slice", "optimization_barrier", "pad", "reshape", "rev",
    "sharding_constraint", "slice", "split", "squeeze", "stop_gradient", "transpose",
})  # fmt: skip
CASTS = frozenset({"convert_element_type", "reduce_precision"})


@dataclass(frozen=True)
class Written:
    """One way to write a place.

    Attributes:
        call: which call; None where there is one.
        last: whether it is the last of them.
        in_method: whether the scope is a method of a sub-module.
        private: whether it is itself such a method, and has a name that says that it is nobody else's.
    """

    mark: Mark
    call: int | None
    last: bool
    scope: str | None
    in_method: bool = False
    private: bool = False

    @property
    def path(self) -> str:
        return self.mark.site.path

    @property
    def field(self) -> str:
        return self.mark.site.field

    @property
    def sort(self) -> tuple[int, ...]:
        """Sub-modules come first, then functions of the model, then others; results before arguments.

        Of variables, which come last, what an operation computes comes before what one is given, and both before
        what is only moved. Casts are last: at another precision there are others.
        """
        if is_variable(self.path):
            primitive = self.path.rpartition("/")[2]
            moved = 4 if primitive in CASTS else 2 * int(primitive in MOVES)
            return 3, int(self.mark.is_other), moved + int(self.field.startswith("("))
        kind = 0 if not is_function(self.path) else 1 if is_own(self.path.partition(":")[0]) else 2
        return kind, int(self.field.startswith("("))

    @property
    def length(self) -> tuple[int, ...]:
        """One call, short paths, and of functions those while the innermost sub-module runs."""
        of_module = self.scope is not None and not is_function(self.scope) and not self.in_method
        if is_variable(self.path):
            depth = self.scope.count(".") + 1 if self.scope else 0
            return int(self.scope is not None and not of_module), int(self.call is not None), -depth
        if is_function(self.path):
            inside = -self.scope.count(".") - 1 if self.scope and of_module else int(self.scope is not None)
            return int(self.call is not None), 0, inside
        return int(self.private), int(self.call is not None), self.path.count("."), int(self.scope is not None)

    def alike(self, kind: str) -> int:
        """How many of the words of a kind of tap are in its own name."""
        own = re.split(r"[^A-Za-z0-9]+", f"{re.split(r'[.:]', self.path)[-1]}{self.field}".lower())
        return sum(word in own for word in kind.split("_"))

    def __str__(self) -> str:
        number = "" if self.call is None else f"#{-1 if self.last and self.call else self.call}"
        return f"{self.path}{number}{self.field}" + (f" in {self.scope}" if self.scope else "")


class Places:
    """All places of a program.

    Args:
        methods: the paths of those that are no sub-modules.
    """

    def __init__(self, marks: Sequence[Mark], methods: frozenset[str]) -> None:
        self._methods = methods
        self._calls: dict[tuple[str, str, int, str | None], list[int]] = defaultdict(list)
        for mark in marks:
            for scope in (None, *dict.fromkeys(mark.site.inside)):
                self._calls[mark.site.path, mark.site.field, mark.loop, scope].append(mark.index)

    def written(self, mark: Mark) -> Iterator[Written]:
        """Every way to write a place; of sub-modules that are called once there is one."""
        path = mark.site.path
        private = path in self._methods and path.rpartition(".")[2].startswith("_")
        for scope in (None, *dict.fromkeys(mark.site.inside)):
            calls = self._calls[mark.site.path, mark.site.field, mark.loop, scope]
            number = calls.index(mark.index)
            once = len(calls) == 1
            yield Written(
                mark, None if once else number, number == len(calls) - 1, scope, scope in self._methods, private
            )
            if once and scope is None and not is_function(path) and not is_variable(path):
                return
