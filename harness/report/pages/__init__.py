"""From a document to its page: what it says, and in which order, by the module that is called as its kind.

Here is what pages of several documents have: figures of logits, and what stands at the end of all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from harness.report.blocks import Block, Detail, Facts, Lines, Page, Prose, Section, tree
from harness.report.criteria import PHASE_3, PHASE_3_NAME, criteria_of
from harness.report.document import Acceptance, GoldenReference, LimitEntry
from harness.report.summary import LogitSummary
from harness.report.tables import Span, Style, Text
from harness.report.wording import between, number, power, rule

if TYPE_CHECKING:
    from harness.report.reading import Document

LOGITS = ("max abs", "mean abs", "max KL", "NMSE", "lowest PCC", "top-1 agreement", "flips", "ties")


def page_of(document: Document, detail: Detail) -> Page:
    """The page of a document."""
    page: Page = import_module(f"harness.report.pages.{document.kind}").page(document, detail)
    return page


def ran_on(environment: Mapping[str, Any]) -> str:
    """Backend, devices and libraries."""
    libraries, devices = environment["libraries"], ", ".join(environment["devices"])
    return f"{environment['backend']} ({devices}), jax {libraries['jax']}, flax {libraries['flax']}"


def outcome(acceptance: Acceptance) -> Span:
    """The word for whether the logits are within the criteria."""
    style: Style = "good" if acceptance.passed else "bad"
    return Span("pass" if acceptance.passed else "fail", style)


def judged_by(acceptance: Acceptance) -> str:
    """By whose criteria the logits are judged, and at which precision."""
    whose = PHASE_3_NAME if criteria_of(acceptance) == PHASE_3 else "own"
    return f"{whose} criteria at {acceptance.precision}"


def criteria(acceptance: Acceptance) -> str:
    """The figures of the logits beside what was asked of them; each without a threshold is only said."""
    asked, r = criteria_of(acceptance), acceptance.position_correlation
    correlation = (
        "means nothing here (fewer than 4 positions, or an error within the noise)"
        if r is None
        else f"{r:+.2f}{_threshold(asked.position_r, '|r| < ')}"
    )
    return (
        f"max abs {number(acceptance.max_abs)}{_threshold(asked.max_abs)}, mean abs {number(acceptance.mean_abs)}"
        f"{_threshold(asked.mean_abs)}, position correlation {correlation}"
    )


def _threshold(value: float | None, prefix: str = "< ") -> str:
    if value is None:
        return ""
    as_power = value < 0.01 and float(power(value)) == value
    return f" ({prefix}{power(value) if as_power else f'{value:g}'})"


def figures_of(x: LogitSummary) -> dict[str, str]:
    """The figures of some logits by their names, `LOGITS`."""
    kl, agreed = between(x.max_kl_low, x.max_kl), f"{x.agreed:,} of {x.positions:,}"
    figures = (number(x.max_abs), number(x.mean_abs), kl, number(x.nmse), number(x.pcc, ".9g"), agreed)
    return dict(zip(LOGITS, (*figures, f"{x.flips}", f"{x.ties}"), strict=True))


def part(detail: Detail, title: str, body: Iterable[Block], link: str) -> Iterator[Block]:
    """Blocks that have a section of their own on a page alone; nothing where there are none."""
    blocks = tuple(body)
    if blocks and detail == "page":
        yield Section(title, blocks, link=link)
    else:
        yield from blocks


def listed(title: str, lines: Sequence[Text], detail: Detail) -> Iterator[Section]:
    """A section of lines, folded away in a summary; on a page there is one even where there are none."""
    body: tuple[Block, ...] = (Lines(tuple(lines)),) if lines else (Prose("Nothing was left out."),)
    if detail == "summary" and lines:
        yield Section(title, body, note=f"{len(lines)}", folded=True)
    elif lines or detail == "page":
        yield Section(title, body, link=title)


def closing(
    detail: Detail,
    golden: GoldenReference,
    limits: Mapping[str, LimitEntry],
    environments: Mapping[str, Mapping[str, Any]],
) -> Iterator[Section]:
    """Limits, environment and golden; nothing of these on a screen.

    Args:
        environments: by what is said of them: one, or two of a diff.
    """
    why = tuple((precision, f"{rule(x)}: {x.why}") for precision, x in limits.items())
    weakest = ", ".join(f"{number(x.weakest_bug)} at {precision}" for precision, x in limits.items())
    why = (*why, ("weakest known bug", weakest)) if limits else ()
    trees = tuple((name, tree(environment)) for name, environment in environments.items())
    if detail == "summary":
        on = ((name, ran_on(environment)) for name, environment in environments.items())
        where = ("golden", f"{golden.id} at {golden.path}")
        yield Section("Limits and golden", (Facts((*why, *on, where)),), folded=True)
    if detail == "page" and why:
        yield Section("Limits, and why", (Facts(why),), link="Limits")
    if detail == "page" and trees:
        yield Section("Environment", (trees[0][1] if len(trees) == 1 else Facts(trees),), link="Environment")
    if detail == "page":
        whence = tree({"id": golden.id, "path": golden.path, "model": golden.model, **golden.provenance})
        yield Section("The golden, and where it comes from", (whence,), link="Golden")
