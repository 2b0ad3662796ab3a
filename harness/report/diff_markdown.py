"""The diff as a GitHub step summary: what got worse first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.report import diff_summary
from harness.report.diff_document import Diff
from harness.report.diff_summary import Operation
from harness.report.markdown import SHOWN_FINDINGS, code, details, fitted, rows, table, text
from harness.report.wording import allowed, number


def diff_markdown(diff: Diff) -> str:
    """The summary, never larger than GitHub takes."""
    return fitted(_sections(diff))


def _sections(diff: Diff) -> Iterator[str]:
    word, counts = diff_summary.headline(diff)
    who = "\n".join(f"- {when}: {code(side)}" for when, side in diff_summary.sides(diff))
    yield f"## goldens diff: {word}\n\n{text(counts)}\n\n{who}\n- model: {code(diff.golden.model)}\n"
    for note in diff_summary.notes(diff):
        yield f"\n> {text(note)}\n"
    for section in sorted(diff_summary.sections(diff), key=lambda section: section.better):
        yield f"\n### {section.status}\n{_operations(section.operations)}"
        if section.inherited:
            yield f"\n{'and ' if section.operations else ''}{diff_summary.inheritance(section)}\n"
    wrong = tuple(diff_summary.operations(diff, diff.still_wrong))
    yield f"\n### Still wrong\n{_operations(wrong)}\n{text(diff_summary.still_wrong(diff))}\n"
    yield table(
        ("", "largest x noise before", "after", "limit"),
        [
            (
                f"{entry.precision} {entry.mode}",
                *(
                    f"{number(x.rms_multiple)} at {code(x.tap)} in {code(x.case)}"
                    for x in (entry.before, entry.after)
                ),
                allowed(entry.after.rms_limit),
            )
            for entry in diff.largest
        ],
    )
    if diff.logits:
        logits = [
            (
                entry.precision,
                *(
                    f"{a} → {b}"
                    for a, b in zip(
                        diff_summary.logit_row(entry.before), diff_summary.logit_row(entry.after), strict=True
                    )
                ),
            )
            for entry in diff.logits
        ]
        yield table(("logits", "max abs", "max KL", "top-1 flips", "ties"), logits)
    if diff.choices:
        yield f"\nChoices of experts\n\n{rows(tuple(diff_summary.choices(diff)))}"
    for title, lines in (("Left out", diff.left_out), ("Not covered", diff_summary.not_covered(diff))):
        if lines:
            yield details(f"{title}: {len(lines)}", rows(lines))


def _operations(found: Sequence[Operation]) -> str:
    if not found:
        return ""
    lines = [
        (code(o.place), text(o.extent), f"{text(o.before)} → {text(o.after)}", text(o.unit))
        for o in found[:SHOWN_FINDINGS]
    ]
    return table(("operation", "where", "x noise, before → after", "1 is"), lines)
