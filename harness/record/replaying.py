"""Which replay passes a recording makes of a case: they mirror what a check replays.

A check replaces what the golden has, and goes on with the port's own values elsewhere. So a replay pass that comes
to a stage starts from truth where what comes in is recorded, and else from the replay pass of the stage before; or
from the forward pass, as long as nothing was recorded yet and both are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.taps import Tap, name_of


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


def replays(recorded: Mapping[str, Sequence[Tap]]) -> dict[str, Replay]:
    """The replay passes of one case, by stage.

    Args:
        recorded: by stage, in their order, the taps that the case records.
    """
    stages = list(recorded)
    # Of a single tap everything comes from the tokens, in replay as well.
    several = sum(map(len, recorded.values())) > 1
    found: dict[str, Replay] = {}
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
        found[stage] = Replay(several and differs and (bool(taps) or carries), entering, carries)
        before, upstream = stage, changed
    return found


def _leaving(stage: str) -> str:
    """The tap that a stage hands on."""
    return "embed" if stage == "embed" else name_of(stage, "resid_post")
