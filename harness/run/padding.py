"""Few lengths instead of many: an input is padded on the right, so that prompts share a compilation; how well the
built-in decoder is compiled; and what a check spends on compiling.

A causal decoder's valid positions do not see what is to the right of them, and the mask is False there; taps are
cut back to the real length before anything is compared. The built-in decoder does this, and adapted ports that
declare it (`pads`), and only in a check: any other port is run on exactly the shapes that the golden has.

On a CPU, compiling a layer well takes a quarter of a second, and a small model computes for less than that on all
inputs of its golden: there it is compiled quickly, and inputs are padded to few lengths whatever it costs. Where a
model computes for longer, the lengths of a run are chosen together: those that lie close to each other share one
where padding costs less than another compilation.

Other ports are compiled as they ask for. One that runs operation by operation is compiled for every operation and
every shape, and with a cache there are many shapes of calls: a check can take ten minutes that are nearly all
compiling. The report then says so, and what to do about it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from harness import along
from harness.families.options import Architecture
from harness.families.parameters import inputs, outputs
from harness.run.port import Call
from harness.run.tapping import Around, Goldens, Session, whole
from harness.taps import DIMS, PINNED

SHORT = (1, 8, 64)
# So many elements are computed by badly optimized programs in the time that they are compiled faster.
FEW = 1 << 24
# So many floating point operations take as long as compiling embedding, layer and head well for one more length.
OPERATIONS_OF_COMPILING = 3e10
# Options of XLA's compiler for CPUs. What is rounded stays rounded: a quick compilation may otherwise leave out a
# rounding to a narrower dtype and back.
QUICKLY: dict[str, bool | int] = {
    "xla_backend_optimization_level": 0,
    "xla_allow_excess_precision": False,
    "xla_cpu_use_fusion_emitters": False,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_cpu_prefer_vector_width": 64,
}
EVENT = "/jax/core/compile/backend_compile_duration"
# A port that is compiled has a program or two for every shape of call, and some small ones around them.
MOST_A_SHAPE = 10
# What takes less, or less of a check, is nobody's concern.
LEAST_SECONDS, LEAST_SHARE = 30.0, 0.5


def padded_length(length: int) -> int:
    """1, 8, 64, then powers of two. 1 stays 1: a softmax over one key is a case of its own."""
    for size in SHORT:
        if length <= size:
            return size
    return 1 << (length - 1).bit_length()


def pad(call: Call, target: int | None = None) -> Call:
    """The call at a padded length, where it is part of a check; its session goes on seeing the real one.

    Args:
        target: the length; None is `padded_length`.
    """
    length = call.input_ids.shape[1]
    target = padded_length(length) if target is None else target
    if target == length or not isinstance(call.tap, Session):
        return call

    def widened(values: jax.Array) -> np.ndarray:
        return np.pad(np.asarray(values), ((0, 0), (0, target - length)))

    return replace(
        call,
        input_ids=widened(call.input_ids),
        positions=widened(call.positions),
        mask=widened(call.mask),
        tap=PaddedSession(call.tap, length, target),
    )


class PaddedSession(Around):
    """A session seen from padded arrays: goldens are widened on the way in, values cut on the way out."""

    def __init__(self, session: Session, length: int, target: int) -> None:
        super().__init__(session)
        self._length, self._target = length, target

    def goldens(self, stage: str) -> Goldens:
        return {kind: self._widened(kind, value) for kind, value in self._session.goldens(stage).items()}

    def _widened(self, kind: str, value: np.ndarray) -> np.ndarray:
        more = along.widths(DIMS[kind], self._target - self._length)
        wide = [size + added for size, (_, added) in zip(value.shape, more, strict=True)]
        if not self.replaying and kind not in PINNED:
            return np.broadcast_to(np.zeros((), value.dtype), wide)
        widened = np.full(wide, np.nan if kind in PINNED else 0, value.dtype)  # np.pad takes ten times as long
        widened[tuple(map(slice, value.shape))] = value
        return widened

    def absorb(self, stage: str, recorded: Mapping[str, jax.Array | np.ndarray]) -> None:
        real = {kind: along.cut(DIMS.get(kind, ()), whole(v), self._length) for kind, v in recorded.items()}
        self._session.absorb(stage, real)


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


def is_small(arch: Architecture, call: Call) -> bool:
    """Whether a call is computed before it could be compiled well."""
    if is_tracing() or not are_known(tuple(QUICKLY.items())):
        return False  # it is part of another program, or its compiler has other options
    return elements(arch, call.input_ids.size, call.mask.shape[1]) <= FEW


def at_few_lengths(arch: Architecture, sequences: Sequence[Sequence[Call]]) -> list[Sequence[Call]]:
    """Calls of sequences, those without a cache at the lengths that cost least."""
    uncached = [len(calls) == 1 and calls[0].cache is None for calls in sequences]
    shapes = [calls[0].input_ids.shape for calls, pads in zip(sequences, uncached, strict=True) if pads]
    small = [
        elements(arch, batch * padded_length(length), padded_length(length)) <= FEW for batch, length in shapes
    ]
    long = [shape for shape, few in zip(shapes, small, strict=True) if not few]
    shared = shared_lengths(long, partial(operations, arch), OPERATIONS_OF_COMPILING)
    lengths = iter(None if few else shared[length] for (_, length), few in zip(shapes, small, strict=True))
    both = zip(sequences, uncached, strict=True)
    return [[pad(calls[0], next(lengths))] if pads else calls for calls, pads in both]


@cache
def are_known(options: tuple[tuple[str, bool | int], ...]) -> bool:
    """Whether the compiler of this device, in this version, has these options."""
    if jax.default_backend() != "cpu":
        return False
    try:
        jax.jit(lambda x: x, compiler_options=dict(options)).lower(0.0).compile()
    except Exception:
        return False
    return True


@cache
def elements(arch: Architecture, tokens: int, keys: int) -> int:
    """How many numbers are gone through in all layers: weights, and what every token has, with so many keys."""
    return arch.layers * (_weights(arch) + tokens * (arch.hidden + arch.intermediate + arch.heads * keys))


@cache
def operations(arch: Architecture, batch: int, length: int) -> float:
    """How many floating point operations the layers take for one input."""
    return arch.layers * batch * length * (2.0 * _weights(arch) + 4.0 * arch.heads * arch.head_dim * length)


def _weights(arch: Architecture) -> int:
    """How many numbers the matrices of a layer have: of one with experts, where there are some."""
    sparse, experts = arch.experts is not None, arch.experts
    own = sum(size * inputs(arch, kind) for kind, size in outputs(arch, sparse).items())
    return own + (experts.count * (3 * experts.intermediate + 1) * arch.hidden if experts else 0)


def is_tracing() -> bool:
    """Whether what is computed here becomes part of a program, which only as a whole has options."""
    return isinstance(jnp.zeros(()), Tracer)


class Compilations:
    """Counts the programs that are compiled from here on."""

    def __init__(self) -> None:
        self._total = _total()
        self._programs, self._seconds = self._total
        self._start = time.monotonic()

    def notes(self, sequences: Sequence[Sequence[Call]]) -> tuple[str, ...]:
        """What a report has to say, where most of the time went into compiling many small programs.

        Args:
            sequences: the calls that were made meanwhile.
        """
        programs, seconds = int(self._total[0] - self._programs), self._total[1] - self._seconds
        elapsed = time.monotonic() - self._start
        shapes = {(call.input_ids.shape, call.mask.shape) for calls in sequences for call in calls}
        if programs <= MOST_A_SHAPE * len(shapes) or seconds < max(LEAST_SECONDS, LEAST_SHARE * elapsed):
            return ()
        several = "one shape" if len(shapes) == 1 else f"{len(shapes)} shapes"
        return (
            f"compiling took {seconds:.0f} of {elapsed:.0f} s: {programs:,} programs for calls of {several}. "
            "The port runs operation by operation: harness.run.tapping.Tapped makes a layer one program "
            "(harness/run/README.md)",
        )


@functools.cache
def _total() -> list[float]:
    """How many programs were compiled in this process since it was first asked for, and how long that took."""
    total = [0.0, 0.0]

    def listen(event: str, seconds: float, **_: object) -> None:
        if event == EVENT:
            total[0] += 1
            total[1] += seconds

    jax.monitoring.register_event_duration_secs_listener(listen)
    return total
