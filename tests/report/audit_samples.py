"""A small audit that is blind to one mutant, with one mutant of every other outcome."""

from __future__ import annotations

from dataclasses import replace

from harness.report.audit_document import Audit, AuditedMutant, AuditResult, Score
from harness.report.document import LimitEntry
from tests.report.hostile import NAME
from tests.report.samples import ENVIRONMENT, REPORT

KL, ABS, TOP1 = "max KL 0.1", "max abs 1e-4", "top-1 equal"
PRECISIONS = ("float32", "bfloat16")


def caught(precision, cases=("code",), introduced=("q_rope",), margin=1e5, criteria=(KL, ABS, TOP1), named=True):
    return AuditResult(
        precision=precision,
        outcome="caught",
        named=named,
        introduced=introduced,
        cases=cases,
        naming=cases if named else (),
        margin=margin,
        rms_multiple=None if margin is None else margin * 4,
        compared=40,
        criteria=criteria,
    )


def missed(precision, outcome, reason, remedy=None, margin=0.0, compared=0, criteria=()):
    return AuditResult(
        precision, outcome, False, (), (), (), margin, margin, compared, criteria, reason=reason, remedy=remedy
    )


def mutant(name, *results, family="rope", expected=("q_rope",), **facts):
    shown = {"wrong": f"wrong {name}", "right": f"right {name}", "at_logits": "", "seen": ()} | facts
    return AuditedMutant(id=name, family=family, kind="operation", expected=expected, results=results, **shown)


SEEN = ("https://github.com/someone/port/issues/7", "https://example.org/thread")
INTERLEAVED = mutant(
    "interleaved",
    caught("float32", cases=("code", "long", "one", "two", "three")),
    caught("bfloat16", cases=("code", "long"), margin=None),
    seen=SEEN,
)
SHIFTED = mutant(
    "shifted", caught("float32", margin=2.5, criteria=(ABS,)), caught("bfloat16", margin=1.5, criteria=())
)
FAR = mutant(
    "far",
    missed("float32", "unreachable", "no position beyond 256", "a case with 300 tokens", criteria=(ABS,)),
    missed("bfloat16", "survived", "below its rounding", "a case with 300 tokens", margin=0.25, compared=3),
    family="positions",
    seen=SEEN,
)
EPS = mutant(
    "eps",
    caught("float32", introduced=("mlp_norm", "q"), criteria=(), named=False),
    missed("bfloat16", "survived", "below this precision's rounding", margin=0.5, compared=9),
    family="norms",
    expected=("mlp_norm",),
)
TEXTUAL = mutant(
    "layers_as_text",
    *(missed(p, "equivalent", "there are fewer than 11 layers") for p in PRECISIONS),
    family="norms",
)
REFUSED = mutant(
    "no_shape", *(missed(p, "refused", "the shapes do not fit", margin=None) for p in PRECISIONS), family="norms"
)


def score(precision, mutants, false_alarms=()):
    found = [next(r for r in m.results if r.precision == precision) for m in mutants]
    visible = [r for r in found if r.outcome in ("caught", "survived", "unreachable")]
    return Score(
        visible=len(visible),
        caught=sum(r.outcome == "caught" for r in found),
        named=sum(r.named for r in found),
        equivalent=sum(r.outcome == "equivalent" for r in found),
        refused=sum(r.outcome == "refused" for r in found),
        criteria={name: sum(name in r.criteria for r in visible) for name in (ABS, KL, TOP1)},
        false_alarms=false_alarms,
        right=0.5,
        comparisons=1234,
        forced=987,
    )


def build(*mutants, blind=()):
    return Audit(
        schema=1,
        kind="audit",
        golden=REPORT.golden,
        environment=ENVIRONMENT,
        verdict="blind" if blind else "sees",
        limits={p: LimitEntry(4.0, 1.0, 1.0, "measured", 1.3e4) for p in PRECISIONS},
        scores={
            "float32": score("float32", mutants, false_alarms=(ABS,)),
            "bfloat16": score("bfloat16", mutants),
        },
        blind=blind,
        needed=("code",),
        spare=("long", "one", "two", "three"),
        not_covered=("bugs that are not in the catalogue",),
        mutants=mutants,
    )


BLIND = build(INTERLEAVED, SHIFTED, FAR, EPS, TEXTUAL, REFUSED, blind=("far",))
SEES = build(INTERLEAVED, TEXTUAL)
HOSTILE = build(
    mutant(
        NAME,
        *(missed(p, "survived", NAME, NAME, margin=0.1, compared=1) for p in PRECISIONS),
        family=NAME,
        expected=(NAME,),
        wrong=NAME,
        right=NAME,
        at_logits=NAME,
        seen=(f"javascript:{NAME}",),
    ),
    blind=(NAME,),
)
HOSTILE = replace(
    HOSTILE, golden=replace(HOSTILE.golden, path=NAME, model=NAME), spare=(NAME,), not_covered=(NAME,)
)
