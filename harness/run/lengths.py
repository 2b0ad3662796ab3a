"""To which lengths the inputs of a large model are padded.

Padding is computed, and every length is compiled. So the lengths of a run are chosen together: those that lie
close to each other share one where padding costs less than another compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


def shared_lengths(
    inputs: Sequence[tuple[int, int]], cost: Callable[[int, int], float], compiling: float
) -> dict[int, int]:
    """The length to which each length is padded; the longest of a group is that of all of it.

    Args:
        inputs: batch and length of every input.
        cost: of computing an input of this batch and length.
        compiling: the cost of compiling one more length, in the same unit.

    Returns:
        By length. 1 stays 1: a softmax over one key is a case of its own.
    """
    lengths = sorted({length for _, length in inputs})
    # The least that the first so many lengths cost, and where the last group among them begins.
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end, longest in enumerate(lengths, 1):
        options = []
        for begin in range(end):
            if lengths[begin] == 1 < longest:
                continue
            within = [batch for batch, length in inputs if lengths[begin] <= length <= longest]
            computing = sum(cost(batch, longest) for batch in within)
            options.append((best[begin][0] + compiling + computing, begin))
        best.append(min(options))
    shared: dict[int, int] = {}
    end = len(lengths)
    while end:
        begin = best[end][1]
        shared |= dict.fromkeys(lengths[begin:end], lengths[end - 1])
        end = begin
    return shared
