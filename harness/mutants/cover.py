"""A smallest set of cases that catches everything that all of them catch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence


def smallest_cover(catches: Mapping[str, frozenset[Hashable]]) -> tuple[str, ...]:
    """The names of as few sets as possible whose union is the union of all of them, in the order given.

    Exact: whatever is hardest to cover decides what is tried (iterative deepening over the size of the answer).

    Args:
        catches: by case, what it catches.
    """
    by_element: dict[Hashable, frozenset[str]] = {}
    for name, elements in catches.items():
        for element in elements:
            by_element[element] = by_element.get(element, frozenset()) | {name}
    # An element whose catchers include all of another's is covered with that one.
    needs = sorted(set(by_element.values()), key=lambda names: (len(names), sorted(names)))
    needs = [names for i, names in enumerate(needs) if not any(other < names for other in needs[:i])]
    size = 0
    while (cover := _cover(needs, size)) is None:
        size += 1
    return tuple(name for name in catches if name in cover)


def _cover(needs: Sequence[frozenset[str]], size: int) -> frozenset[str] | None:
    """At most `size` names that meet every need; None where that cannot be."""
    if not needs:
        return frozenset()
    if size == 0:
        return None
    hardest = min(needs, key=lambda names: len(names))
    for name in sorted(hardest, key=lambda name: (-sum(name in need for need in needs), name)):
        rest = _cover([need for need in needs if name not in need], size - 1)
        if rest is not None:
            return rest | {name}
    return None
