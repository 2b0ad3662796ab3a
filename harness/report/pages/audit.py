"""An audit as a page: what the golden cannot see, the score beside the usual criteria, the cases needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from harness.report import audit_summary as words
from harness.report.audit_document import Audit
from harness.report.audit_summary import Unseen
from harness.report.blocks.inline import Span, Text, code, strong
from harness.report.blocks.page import Block, Detail, Facts, Finding, Lines, Page, Prose, Section
from harness.report.blocks.table import BEYOND, Table
from harness.report.pages import audit_mutants
from harness.report.pages.shared import closing, listed, part, ran_on
from harness.report.wording import number

PLANTED = (
    "Every mutant, a known porting bug, was planted in the built-in decoder and checked against this golden. What "
    "no comparison notices, the golden cannot see in a port either."
)
SCORE = (
    "How many of the mutants are caught: by the goldens, and by each of the usual criteria on the same runs. "
    "Named: found in replay at the operation where the bug is, and nowhere else. Neither equivalent nor refused "
    "ones count as bugs, or as caught."
)


def page(audit: Audit, detail: Detail) -> Page:
    """An audit as a person reads it."""
    word, said = words.headline(audit)
    known = {
        "model": audit.golden.model,
        "golden": f"{audit.golden.path}  {audit.golden.id[:12]}",
        "ran on": ran_on(audit.environment),
    }
    return Page(
        command="goldens audit",
        title=f"audit of {audit.golden.model}",
        word=word,
        style="good" if audit.verdict == "sees" else "bad",
        said=said,
        facts=tuple(known.items())[: 1 if detail == "summary" else None],
        notes=(),
        body=tuple(_body(audit, detail)),
    )


def _body(audit: Audit, detail: Detail) -> Iterator[Block]:
    folded = True if detail == "summary" else None
    yield from part(detail, "What this golden cannot see", _unseen(audit, detail), link="Blind spots")
    yield from part(detail, "Score", _score(audit, folded), link="Score")
    no_bugs = tuple(_reasons(words.no_bugs(audit)))
    if detail == "page":
        yield Section("Every mutant", tuple(audit_mutants.mutants(audit)), link="Mutants")
    else:
        tallies = ((f.name, *(", ".join(map(str, tally)) for tally in f.tallies)) for f in words.families(audit))
        families = Table(("family: caught, named, of", *audit.scores), tuple(tallies))
        yield Section("Families", (families,), folded=folded)
        if no_bugs:
            yield Section("Equivalent or refused", (Facts(no_bugs),), f"{len(no_bugs)}", folded=folded)
    every = (audit_mutants.cases(audit),) if detail == "page" else ()
    yield Section("Cases", (Lines(words.cases(audit)), *every), link="Cases", folded=folded)
    yield from listed("Not covered", audit.not_covered, detail)
    yield from closing(detail, audit.golden, audit.limits, {"ran on": audit.environment})


def _unseen(audit: Audit, detail: Detail) -> Iterator[Block]:
    """What is caught at no precision, not at one of them, or caught and not named."""
    if detail == "page":
        yield Prose(PLANTED)
        yield from _blind(audit)
        if not audit.blind:
            at = ", ".join(audit.scores)
            yield Prose(f"Every mutant that is a bug here is caught at one of these precisions at least: {at}.")
    found = {} if detail == "page" else {"Caught at no precision": _reasons(words.blind_spots(audit))}
    for precision in audit.scores:
        missed = f"Not caught at {precision}, and caught at another precision"
        unnamed = f"Caught at {precision}, but not at the operation where it is and there alone"
        found[missed] = _reasons(words.missed(audit, precision))
        found[unnamed] = ((mutant.id, text) for mutant, text in words.unnamed(audit, precision))
    for title, facts in found.items():
        if rows := tuple(facts):
            yield Section(title, (Facts(rows),), f"{len(rows)}")


def _blind(audit: Audit) -> Iterator[Finding]:
    """Of every mutant that no precision catches what it is, why it is not seen, and what would catch it."""
    spots = tuple(words.blind_spots(audit))
    for mutant in (mutant for mutant in audit.mutants if mutant.id in audit.blind):
        facts: list[tuple[str, Text]] = [("wrong", mutant.wrong), ("right", mutant.right)]
        facts.append(("it is in", f"{', '.join(mutant.expected)} ({mutant.family})"))
        for unseen in (unseen for unseen in spots if unseen.mutant.id == mutant.id):
            facts.append((", ".join(unseen.precisions), f"{unseen.outcome}: {unseen.reason}"))
            facts += [("caught by", strong(unseen.remedy))] if unseen.remedy else []
        facts += [("seen in", ", ".join(mutant.seen))] if mutant.seen else []
        yield Finding(f"{BEYOND} not caught", mutant.id, facts=tuple(facts))


def _reasons(found: Iterable[Unseen]) -> Iterator[tuple[str, Text]]:
    return ((unseen.mutant.id, words.why(unseen)) for unseen in found)


def _score(audit: Audit, folded: bool | None) -> Iterator[Block]:
    rows = tuple((label, *cells) for label, cells in words.score_rows(audit))
    yield Table(("mutants", *audit.scores), rows, "score", SCORE)
    sanity = Facts(tuple((precision, words.sanity(score)) for precision, score in audit.scores.items()))
    if not folded:
        weakest = Facts(tuple((precision, _weakest(audit, precision)) for precision in audit.scores))
        overlooked = Facts(tuple((precision, _overlooked(audit, precision)) for precision in audit.scores))
        yield Section("Weakest catches, in multiples of the limit", (weakest,))
        yield Section("What the usual criteria would let through", (overlooked,))
    yield Section("Before any mutant", (sanity,), folded=folded)


def _weakest(audit: Audit, precision: str) -> Text:
    said: list[str | Span] = []
    for margin, name in words.weakest(audit, precision):
        said += [", " * bool(said), code(name), f" {number(margin)}"]
    return tuple(said) or "none"


def _overlooked(audit: Audit, precision: str) -> str:
    names = tuple(words.overlooked(audit, precision))
    which = f": {', '.join(names)}" if names else ""
    return f"{len(names)} of those caught here pass every criterion that passes the right decoder{which}"
