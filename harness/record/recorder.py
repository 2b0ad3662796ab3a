"""A recording: checkpoint + corpus -> golden. The only module that knows the whole order of events."""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from msgspec import UNSET

from harness import golden
from harness.along import Case
from harness.corpus import Corpus
from harness.entries import Batch, Entry, Generation
from harness.errors import CorpusError
from harness.families.graph import taps_of
from harness.golden import CaseEntry, Manifest, ParameterEntry, RowEntry
from harness.layout import sizes_of
from harness.record.arrays import Loudest, Tally, golden_arrays
from harness.record.beside import ahead
from harness.record.cases import cases_of, has_cache, kept_positions
from harness.record.environment import check_device, provenance, reproducible
from harness.record.generation import generate_missing
from harness.record.largest import refuse_count
from harness.record.layer_major import run_units
from harness.record.model import Reference
from harness.record.noise import draws_of
from harness.record.parameters import model_entry, parameter_table
from harness.record.tokens import Tokenized, tokenize
from harness.record.work import Work
from harness.selecting import EVERYTHING, LEVELS, Selected, at_level, refuse_unmatched
from harness.store.writer import check_writable, write_golden
from harness.taps import OPTIONAL


@dataclass(frozen=True)
class Options:
    """What is recorded, and how.

    Attributes:
        level: the deepest level; an entry may have a shallower one of its own.
        dtype: in which truth is stored; it is always computed in float64.
        cases: names of corpus entries; none means all.
        overwrite: replace the golden that is there.
        selected: which taps of the level.
        top: how many logits are stored at each position, the largest; 0 is all.
    """

    level: str = "ops"
    dtype: str = "float64"
    cases: tuple[str, ...] = ()
    device: str = "cpu"
    overwrite: bool = False
    selected: Selected = EVERYTHING
    top: int = 0


@dataclass(frozen=True)
class Summary:
    """What came of it. `resumed` units were done by an earlier, unfinished recording."""

    id: str
    path: str
    cases: int
    taps: int
    nbytes: int
    seconds: float
    units: int
    resumed: int
    loudest: Loudest


class Silent:
    """Told what happens, and shows nothing of it. `harness.record.progress` has the one that draws bars."""

    def notice(self, text: str) -> None:
        """Something in words."""

    def plan(self, units: int, done: int) -> None:
        """How many units of work there are, and how many of them are done already."""

    def unit(self, stage: str, case: str, nbytes: int) -> None:
        """A unit of work is done."""


def record(
    checkpoint: Path,
    model_id: str,
    corpus: Corpus,
    out: str,
    options: Options = Options(),
    progress: Silent = Silent(),  # noqa: B008 - without state
) -> Summary:
    """Record a golden.

    Args:
        checkpoint: a directory in Hugging Face format.
        model_id: what the golden calls it: the directory's name, or the id on the hub.
        out: a path ending in .h5 or .zarr, or a URL.

    Raises:
        HarnessError: the recording is refused, or stops. What was at `out` is untouched then, and where work was
            done the same call goes on with it.
    """
    started = time.monotonic()
    check_writable(out, options.overwrite)
    check_device(options.device)
    selected = corpus.select(options.cases)
    with reproducible():
        model = asked_of(checkpoint, options.device, corpus, options.selected)
        check_selection(model, selected, options)
        tokenized = tokenize(checkpoint, corpus, selected, model.arch.vocab)
        work = Work(out)
        with work.locked():
            progress.notice(f"hashing {len(model.checkpoint.names)} parameters")
            table = parameter_table(model.checkpoint, model.shapes, model.tied)
            manifest = manifest_of(model, model_id, corpus, tokenized, options, table)
            _take_up(work, manifest, tokenized, progress)
            cases = _cases(model, selected, tokenized, work, progress)
            manifest = replace(manifest, cases=entries_of(model, corpus, selected, cases, options))
            units = len(model.stages) * len(cases)
            resumed = sum(work.has(stage, case.name) for stage in model.stages for case in cases)
            if resumed:
                progress.notice(f"going on with unfinished work: {resumed} units are done")
            progress.plan(units, resumed)
            run_units(model, manifest, cases, work, progress.unit)
            progress.notice(f"writing {out}")
            tally = Tally()
            arrays = ahead(golden_arrays(model, manifest, cases, work, tally))
            identity = write_golden(out, arrays, manifest, overwrite=options.overwrite)
            work.finish()
    return Summary(
        id=identity,
        path=out,
        cases=len(manifest.cases),
        taps=sum(len(entry.taps) for entry in manifest.cases),
        nbytes=tally.nbytes,
        seconds=time.monotonic() - started,
        units=units,
        resumed=resumed,
        loudest=tally.loudest,
    )


def asked_of(checkpoint: Path, device: str, corpus: Corpus, selected: Selected) -> Reference:
    """The model, with a tap for what each expert makes of a token where the corpus, or a glob, names it.

    Raises:
        CheckpointError: as `Reference`.
        CorpusError: the corpus asks for each expert's output, and there are no experts.
    """
    named = any(kind in pattern for kind in OPTIONAL for pattern in selected.taps)
    model = Reference(checkpoint, device, apart=corpus.experts or named)
    if corpus.experts and model.arch.experts is None:
        problem = "the corpus asks for what each expert makes of a token, and this model has none"
        hint = "leave `experts = true` out of the corpus"
        raise CorpusError(problem, checkpoint, "a mixture of experts", model.arch.family, hint=hint)
    return model


def _cases(
    model: Reference, selected: Sequence[Entry], tokenized: Tokenized, work: Work, progress: Silent
) -> tuple[Case, ...]:
    """The case of every entry; what the reference is to write itself is generated first."""
    counts = {entry.name: entry.tokens for entry in selected if isinstance(entry, Generation)}
    if counts:
        progress.notice(f"generating: {', '.join(counts)}")
    texts = {name: tokenized.ids[name] for name in counts}
    generated = generate_missing(model, texts, counts, work)
    return cases_of(model.arch, selected, tokenized.ids, generated, tokenized.pad)


def check_selection(model: Reference, entries: Sequence[Entry], options: Options) -> None:
    """Refuse a selection of taps that names nothing, or leaves nothing of an entry; more logits than there are.

    Raises:
        UsageError: it does.
    """
    cases = [(entry.name, _level(entry, options), has_cache(entry)) for entry in entries]
    taps = taps_of(model.arch)
    refuse_unmatched(taps, cases, options.selected)
    if options.top:
        refuse_count(options.top, model.arch.vocab, at_level(taps, "logits", True, options.selected))


def _level(entry: Entry, options: Options) -> str:
    return min(entry.level, options.level, key=LEVELS.index)


def entries_of(
    model: Reference, corpus: Corpus, selected: Sequence[Entry], cases: Sequence[Case], options: Options
) -> tuple[CaseEntry, ...]:
    """What the manifest says of every case."""
    entries = []
    for entry, case in zip(selected, cases, strict=True):
        level, cached = _level(entry, options), bool(case.calls)
        whole = at_level(taps_of(model.arch), level, cached)
        taps = at_level(whole, level, cached, options.selected)
        names = entry.prompts if isinstance(entry, Batch) else ()
        entries.append(
            CaseEntry(
                name=entry.name,
                kind=entry.kind,
                text="" if isinstance(entry, Batch) else entry.text,
                why=entry.why,
                tags=entry.tags,
                level=level,
                shape=(case.batch, case.length),
                taps=tuple(tap.name for tap in taps),
                calls=case.calls,
                kept=kept_positions(entry, case.length),
                draws=draws_of(case.length),
                rows=tuple(RowEntry(name, corpus.prompt(name).text) for name in names),
                generated=entry.tokens if isinstance(entry, Generation) else 0,
                partly=True if len(taps) < len(whole) else UNSET,
                top=options.top or UNSET,
            )
        )
    return tuple(entries)


def manifest_of(
    model: Reference,
    model_id: str,
    corpus: Corpus,
    tokenized: Tokenized,
    options: Options,
    table: Mapping[str, ParameterEntry],
) -> Manifest:
    """Everything that the golden says of itself, but for its cases and their arrays."""
    taps = taps_of(model.arch)
    return Manifest(
        format=golden.FORMAT,
        version=golden.SELECTIVE_VERSION if options.selected or options.top else golden.FORMAT_VERSION,
        model=model_entry(model_id, model.config, model.checkpoint, table),
        tokenizer=tokenized.tokenizer,
        corpus_sha256=corpus.digest,
        level=options.level,
        truth_dtype=options.dtype,
        precisions=golden.NOISE_PRECISIONS,
        statistics=golden.NOISE_STATISTICS,
        sizes=sizes_of(taps, model.arch.sizes(1, 1)),
        taps=taps,
        cases=(),
        environment=provenance(options.device),
        command=_command(model_id, corpus, options),
        arrays={},
        selected=options.selected or UNSET,
    )


def _command(model_id: str, corpus: Corpus, options: Options) -> str:
    """The command in a canonical form: only what decides the content, and no path."""
    words = ["generate_goldens.py", "--model", model_id, "--corpus", f"sha256:{corpus.digest}"]
    words += ["--level", options.level, "--dtype", options.dtype, "--device", options.device]
    words += map(shlex.quote, options.selected.words)
    words += ["--logits", f"top-{options.top}"] if options.top else []
    for name in sorted(options.cases):
        words += ["--case", name]
    return " ".join(words)


def _take_up(work: Work, manifest: Manifest, tokenized: Tokenized, progress: Silent) -> None:
    """Go on with work that was done under the same settings; discard any other."""
    ids = hashlib.sha256()
    for name, tokens in tokenized.ids.items():
        ids.update(f"{name} {list(tokens)}\n".encode())
    settings = {"ids_sha256": ids.hexdigest(), "golden": json.loads(golden.encode(manifest))}
    if work.begin(json.dumps(settings, indent=1).encode()):
        progress.notice("discarding unfinished work: it was begun with another checkpoint, corpus or options")
