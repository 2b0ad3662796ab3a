"""The unit of work: one case through one stage, in all precision streams.

The streams are truth (float64), and at float32 and bfloat16 a forward and a replay pass. In replay every recorded
tap is replaced by truth rounded to the precision, what comes into the stage as well. So a replay pass needs
nothing from the replay pass of the stage before, and what goes from stage to stage is truth and forward passes.
Where what comes in is not recorded, nothing stands in its place: the replay passes go from stage to stage as well.
So a check replays: it replaces what the golden has, and goes on with the port's own values elsewhere. As long as
nothing was recorded yet, replay is what forward is.

PyTorch's error is one draw of its rounding, so every pass at a precision is drawn several times (see
`harness.record.noise`). Far out one rounding of a RoPE frequency moves every angle, and a draw in which it happens
to be right says nothing about a port in which it is not. So in cases that reach `FAR` the further draws have
frequencies one unit in the last place higher as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from harness.errors import RecordError
from harness.golden import NOISE_PRECISIONS
from harness.record.calls import Pass, run_calls
from harness.record.experts import Choice
from harness.record.largest import LOGITS, beside, largest, narrowed
from harness.record.model import Stage
from harness.record.noise import Floors, noise_floors, not_finite, nudged, rounded
from harness.record.shell import Inputs
from harness.taps import CACHED, FULL_KINDS, Tap, name_of

PRECISIONS = ("float64", *NOISE_PRECISIONS)
FAR = 256
ENTRY = "entry"  # what comes into a stage, beside the kinds of its taps
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by size
State = Mapping[str, Tensor]  # stream -> hidden states [batch, position, hidden]


@dataclass(frozen=True)
class Replay:
    """The replay passes of one case through one stage.

    Attributes:
        runs: whether there are any: elsewhere replay is forward, or nobody asks.
        entering: from which stream comes what enters the stage.
        carries: whether what comes out is needed by the stage that follows.
    """

    runs: bool
    entering: Literal["truth", "forward", "replay"]
    carries: bool


@dataclass(frozen=True, eq=False)
class Unit:
    """What a unit of work yields.

    Attributes:
        state: stream -> hidden states for the next stage; empty after the last.
        truth: tap -> float64, dimensions as in `stored_dims`.
        noise: (precision, kind) -> float32 [tap, statistic, batch, position or kept], the stage's recorded taps in
            order.
        top: what is stored beside the largest logits, by name; empty where all logits are.
    """

    state: State
    truth: Mapping[str, Tensor]
    noise: Mapping[tuple[str, str], Floors]
    top: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Task:
    """What is asked of a unit.

    Attributes:
        spans: the tokens of each call.
        taps: of this stage, those that the case records.
        replay: whether there are replay passes, and what goes into them and on from them.
        kept: the positions that are stored; empty means all.
        draws: how often PyTorch's error is drawn.
        seed: of the nudges, the case's own.
        repeat: run every pass twice, and refuse any difference.
        top: how many logits are stored, the largest; 0 is all.
    """

    inputs: Inputs
    spans: Sequence[slice]
    taps: Sequence[Tap]
    replay: Replay
    kept: Sequence[int] = ()
    draws: int = 1
    seed: str = ""
    repeat: bool = False
    top: int = 0


def compute(stage: Stage, task: Task, state: State) -> Unit:
    """Run all streams of one case through one stage.

    Args:
        state: what the stage before gave; empty for the first.

    Raises:
        RecordError: a tap fires twice or never, the reference is not finite, or a repeat differs.
    """
    # No longer than the unit: masks of long cases are large.
    task = replace(task, inputs=replace(task.inputs, kept={}))
    truth = _run(stage, task, "truth", "float64", state.get("float64"), None)
    _refuse_non_finite(stage, truth)
    ids = largest(truth.values[LOGITS], task.top) if task.top and LOGITS in truth.values else None
    expected = narrowed(truth.values, ids)
    noise: dict[tuple[str, str], Floors] = {}
    out, far = {"float64": truth.out}, bool(task.inputs.positions.max() >= FAR)
    for precision in NOISE_PRECISIONS:
        forward, replay = [], []
        given = _given(stage, precision, task.replay, state, truth) if task.replay.runs else {}
        for draw in range(task.draws):
            stream = _stream(precision, "forward", draw)
            drawn = replace(task, inputs=replace(task.inputs, nudged=far and draw > 0))
            if state or not draw:  # tokens come in the same in every draw
                ran = _run(stage, drawn, stream, precision, state.get(stream), None, truth.chosen)
            nudge = draw and not state  # once, where the tokens come in
            out[stream] = nudged(ran.out, f"{task.seed} {stream}") if nudge else ran.out
            forward.append(narrowed(ran.values, ids))
            if task.replay.runs:
                own = state.get(_stream(precision, task.replay.entering, draw))
                again = _replay(stage, drawn, precision, draw, given, own, truth.chosen)
                replay.append(narrowed(again.values, ids))
                if task.replay.carries:
                    out[_stream(precision, "replay", draw)] = again.out
        if task.taps:
            noise[precision, "forward"] = noise_floors(forward, expected, task.taps, f"{precision} forward")
            noise[precision, "replay"] = noise[precision, "forward"]
        if task.taps and replay:
            noise[precision, "replay"] = noise_floors(replay, expected, task.taps, f"{precision} replay")
    last = stage.kinds[-1] == "logits"
    stored = {tap.name: _kept(tap, expected[tap.kind], task.kept) for tap in task.taps}
    if task.kept:
        noise = {stream: floors[..., list(task.kept)] for stream, floors in noise.items()}
    top = {} if ids is None else beside(truth.values[LOGITS], ids)
    if task.kept:
        top = {name: value[:, list(task.kept)] for name, value in top.items()}
    return Unit({} if last else out, stored, noise, top)


def _stream(precision: str, kind: str, draw: int) -> str:
    return f"{precision} {kind}{f' {draw}' * bool(draw)}"


def _kept(tap: Tap, value: Tensor, kept: Sequence[int]) -> Tensor:
    if not kept or tap.kind in FULL_KINDS:
        return value
    return value.index_select(tap.position_axis, torch.tensor(kept, device=value.device))


def _given(stage: Stage, precision: str, replay: Replay, state: State, truth: Pass) -> dict[str, Tensor]:
    """Truth rounded to a precision, by kind of tap; what comes in, where it is recorded, is `ENTRY`.

    The last tap is not among them: what goes out of a stage in replay is not looked at. So nothing is replaced in
    the first stage, where replay is what forward is.
    """
    entry = {ENTRY: rounded(state["float64"], precision)} if replay.entering == "truth" else {}
    taps = {kind: rounded(value, precision) for kind, value in truth.values.items() if kind != stage.kinds[-1]}
    return taps | entry


def _replay(
    stage: Stage,
    task: Task,
    precision: str,
    draw: int,
    given: Mapping[str, Tensor],
    own: Tensor | None,
    chosen: Sequence[Choice],
) -> Pass:
    """A replay pass: what goes in is truth rounded to the precision; in a further draw, nudged.

    Args:
        own: what the stage before gave in this draw, where that is not recorded.
        chosen: by call, what the truth's router chose.
    """
    stream = _stream(precision, "replay", draw)
    if draw:
        # A cache holds the very keys and values that went into it.
        seed = f"{task.seed} {stage.prefix} {stream}"
        given = {kind: nudged(value, f"{seed} {CACHED.get(kind, kind)}") for kind, value in given.items()}
    replacements = {kind: value for kind, value in given.items() if kind != ENTRY}
    return _run(stage, task, stream, precision, given.get(ENTRY, own), replacements, chosen)


def _run(
    stage: Stage,
    task: Task,
    stream: str,
    precision: str,
    state: Tensor | None,
    replacements: Mapping[str, Tensor] | None,
    pinned: Sequence[Choice] | None = None,
) -> Pass:
    def once() -> Pass:
        return run_calls(stage, task.inputs, task.spans, task.taps, precision, state, replacements or {}, pinned)

    return _agreed(stage, stream, once) if task.repeat else once()


def _agreed(stage: Stage, stream: str, once: Callable[[], Pass]) -> Pass:
    """Run a pass twice: a reference that does not agree with itself, bit for bit, is none."""
    first, second = once(), once()
    for kind, value, again in (
        *((kind, value, second.values[kind]) for kind, value in first.values.items()),
        (stage.kinds[-1], first.out, second.out),
    ):
        if not torch.equal(_bits(value), _bits(again)):
            difference = (value.to(torch.float64) - again.to(torch.float64)).abs().max()
            problem = "the reference does not agree with itself: the same pass, run twice, gave different bits"
            where, expected = f"{name_of(stage.prefix, kind)}, {stream}", "the same bits"
            hint = "an operation here is not deterministic: record on another device (--device cpu)"
            raise RecordError(problem, where, expected, f"a difference of up to {difference:.3g}", hint=hint)
    return first


def _bits(value: Tensor) -> Tensor:
    """As integers, of which a NaN equals itself, and 0 is not -0."""
    return value.contiguous().view(INTEGERS[value.element_size()])


def _refuse_non_finite(stage: Stage, truth: Pass) -> None:
    for kind in stage.kinds:
        value = truth.out if kind == stage.kinds[-1] else truth.values.get(kind)
        if value is not None and not torch.isfinite(torch.stack(value.aminmax())).all():
            raise not_finite(name_of(stage.prefix, kind), "truth")


def replays(recorded: Mapping[str, Sequence[Tap]]) -> dict[str, Replay]:
    """The replay passes of one case, by stage.

    Args:
        recorded: by stage, in their order, the taps that the case records.
    """
    stages = list(recorded)
    # Of a single tap everything comes from the tokens, in replay as well.
    several = sum(map(len, recorded.values())) > 1
    passes: dict[str, Replay] = {}
    before, upstream = "", False
    for index, stage in enumerate(stages):
        taps = recorded[stage]
        entering: Literal["truth", "forward", "replay"] = "forward"
        if before and _leaving(before) in {tap.name for tap in recorded[before]}:
            entering = "truth"
        elif upstream:
            entering = "replay"
        follows = any(recorded[later] for later in stages[index + 1 :])
        changed = bool(upstream or taps)
        carries = follows and changed and _leaving(stage) not in {tap.name for tap in taps}
        # What leaves a stage is not put in its own place: of that tap alone, replay is what forward is.
        differs = entering != "forward" or any(tap.name != _leaving(stage) for tap in taps)
        passes[stage] = Replay(several and differs and (bool(taps) or carries), entering, carries)
        before, upstream = stage, changed
    return passes


def _leaving(stage: str) -> str:
    """The tap that a stage hands on."""
    return "embed" if stage == "embed" else name_of(stage, "resid_post")
