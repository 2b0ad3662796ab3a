"""The figures of a report by precision and mode, which every view shows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from harness.report.document import Report
from harness.results import TapResult
from harness.verdict import breaks_contract

# Verdicts of results without numbers: there was nothing to compare.
UNCOMPARED = ("missing", "extra", "shape", "dtype")
READABLE = "float32"  # the precision that says most to a person: "x PyTorch's own float32 error"

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Group:
    """All comparisons at one precision in one mode. A largest figure of None is: not finite, or not computed.

    Attributes:
        worst: the comparison whose rms multiple is worst in view of its limit.
        worst_max: the one whose max-abs multiple is.
        rel_rms: the largest relative rms error.
    """

    precision: str
    mode: str
    compared: int
    matched: int
    worst: TapResult
    worst_max: TapResult
    rel_rms: float | None


@dataclass(frozen=True)
class LogitSummary:
    """What the usual criteria say about the logits of some cases: the worst of each. None is: not finite.

    Attributes:
        positions: how many were compared.
        flips: positions where another token is the most likely, ties left out.
        ties: those where it is within PyTorch's own noise.
        top, mean_kl_low, max_kl_low: as in `harness.results.LogitStatistics`.
    """

    max_abs: float | None
    mean_abs: float | None
    mean_kl: float | None
    max_kl: float | None
    nmse: float | None
    pcc: float | None
    positions: int
    flips: int
    ties: int
    top: int | None = None
    mean_kl_low: float | None = None
    max_kl_low: float | None = None

    @property
    def agreed(self) -> int:
        """At how many positions the most likely token is the golden's."""
        return self.positions - self.flips - self.ties


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Items by what `key` says of each, in the order in which they come."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def is_comparable(report: Report) -> bool:
    """Whether anything could be compared, and all of it: else the port breaks its contract."""
    return any(r.verdict != "tied" for r in report.results) and not any(map(breaks_contract, report.results))


def has_figures(result: TapResult) -> bool:
    """Whether there were values to compare."""
    return result.verdict not in (*UNCOMPARED, "tied")


def groups(report: Report) -> tuple[Group, ...]:
    """One group per precision and mode, in the report's order."""
    by_kind = grouped(report.results, lambda r: (r.precision, r.mode))
    return tuple(_group(precision, mode, results) for (precision, mode), results in by_kind.items())


def _group(precision: str, mode: str, results: Sequence[TapResult]) -> Group:
    compared = [r for r in results if has_figures(r)] or results
    return Group(
        precision,
        mode,
        compared=len(results),
        matched=sum(r.verdict == "match" for r in results),
        worst=max(compared, key=lambda r: max(r.shares[0], r.shares[2])),
        worst_max=max(compared, key=lambda r: r.shares[1]),
        rel_rms=_largest_known(r.rel_rms for r in results),
    )


def forward_logits(results: Iterable[TapResult]) -> dict[str, list[TapResult]]:
    """The forward results that have logit statistics, by precision."""
    of_logits = (r for r in results if r.logits is not None and r.mode == "forward")
    return grouped(of_logits, lambda r: r.precision)


def logit_summary(results: Sequence[TapResult]) -> LogitSummary:
    """The figures of some results that have logit statistics."""
    statistics = [r.logits for r in results if r.logits is not None]
    flips = [flip for s in statistics for flip in s.flips]
    return LogitSummary(
        max_abs=largest(r.max_abs for r in results),
        mean_abs=largest(r.mean_abs for r in results),
        mean_kl=largest(s.mean_kl for s in statistics),
        max_kl=largest(s.max_kl for s in statistics),
        nmse=largest(s.nmse for s in statistics),
        pcc=min((s.pcc for s in statistics if s.pcc is not None), default=None),
        positions=sum(s.positions for s in statistics),
        flips=sum(not flip.tie for flip in flips),
        ties=sum(flip.tie for flip in flips),
        top=max((s.top for s in statistics if s.top is not None), default=None),
        mean_kl_low=_largest_known(s.mean_kl_low for s in statistics),
        max_kl_low=_largest_known(s.max_kl_low for s in statistics),
    )


def largest(values: Iterable[float | None]) -> float | None:
    """The largest; None where one is not finite, or there is none."""
    listed = list(values)
    return None if any(v is None for v in listed) else _largest_known(listed)


def _largest_known(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
