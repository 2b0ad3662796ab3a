"""What `goldens record` does with its arguments. torch is imported only once they make sense."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from harness import embedded, recognise
from harness.corpus import Corpus, load_corpus
from harness.entries import Entry, listed, shown
from harness.errors import CheckpointError, RecordError, UsageError, first_line
from harness.selecting import Selected
from harness.store.writer import check_writable

if TYPE_CHECKING:
    from harness.record.recorder import Options, Summary

LIBRARIES = ("torch", "transformers", "filelock", "psutil")
INSTALL = "pip install -e '.[record]' in a checkout, pip install 'goldens[record]' elsewhere"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Request:
    """The arguments as they were given; None where one was not."""

    model: str | None = None
    corpus: Path | None = None
    out: str | None = None
    level: str | None = None
    dtype: str | None = None
    cases: tuple[str, ...] = ()
    device: str | None = None
    force: bool = False
    dry_run: bool = False
    taps: tuple[str, ...] = ()
    layers: str | None = None
    logits: str | None = None


@dataclass(frozen=True)
class Job:
    """One golden to record: which model, on which prompts, where to, and whether a golden there is replaced."""

    model: str
    model_id: str
    corpus: Path
    out: str
    overwrite: bool


def run(request: Request, console: Console) -> list[Summary]:
    """Record what was asked for, with progress on the console.

    Raises:
        HarnessError: refused, or stopped; what was done so far is kept for the next run.
    """
    jobs = plan(request)
    Selected.asked(request.taps, request.layers)
    largest_of(request.logits)
    corpora = [load_corpus(job.corpus) for job in jobs]
    for job, corpus in zip(jobs, corpora, strict=True):
        selected = corpus.select(request.cases)  # refuses an unknown name before torch is imported
        _warn_without_why(selected, console)
        check_writable(job.out, job.overwrite)
    require_torch()
    if request.dry_run:
        for job, corpus in zip(jobs, corpora, strict=True):
            _estimate(job, corpus, request, console)
        return []
    return [_record(job, corpus, request, console) for job, corpus in zip(jobs, corpora, strict=True)]


def plan(request: Request) -> list[Job]:
    """The goldens that the arguments ask for.

    Without `--model` and `--out` these are the embedded goldens, each beside its checkpoint and recorded as a
    whole, on its own corpus: an option that would record them differently is refused rather than applied to them.

    Raises:
        UsageError: the embedded goldens would be recorded in part, or into an installed package.
    """
    if request.model is None and request.out is None:
        if not embedded.in_checkout():
            problem = "the embedded goldens are recorded in a checkout only, not in an installed package"
            hint, here = "say what to record: goldens record --model DIR --out PATH.h5", embedded.directory()
            raise UsageError(problem, where=here, expected="--model, or --out", found="neither", hint=hint)
        options = ("corpus", "level", "taps", "layers", "logits", "dtype", "device")
        changed = [name for name in options if getattr(request, name)]
        if changed or request.cases:
            problem, expected = "the embedded goldens are only recorded as a whole", "no other option, or --out"
            where, hint = f"--{(changed or ['case'])[0]}", "say where another recording goes: --out PATH.h5"
            raise UsageError(problem, where=where, expected=expected, found="no --out", hint=hint)
        return [
            Job(str(model), model.name, embedded.corpus_of(model.name), f"{model}.h5", overwrite=True)
            for model in (config.parent for config in sorted(embedded.directory().glob("*/config.json")))
        ]
    model = str(embedded.directory() / "qwen2-tiny") if request.model is None else request.model
    local = _is_directory(model)
    name = Path(model).resolve().name if local else model
    out = f"{name.rpartition('/')[2]}.h5" if request.out is None else request.out
    return [Job(model, name, request.corpus or embedded.directory() / "corpus.toml", out, request.force)]


def largest_of(logits: str | None) -> int:
    """How many logits `top-64` stores; 0 is all of them.

    Raises:
        UsageError: it is neither `all` nor `top-` and a number from 2 on: with one there is no runner-up.
    """
    match = re.fullmatch(r"top-([1-9]\d{0,8})", logits or "")
    count = int(match[1]) if match else 0
    if logits in (None, "all") or count > 1:
        return count
    problem, where = "this is no choice of logits", f"--logits {shown(logits)}"
    raise UsageError(problem, where, "all, or top-2 and more", hint="for example --logits top-64")


def require_torch() -> None:
    """Refuse to go on without the libraries of the recording side.

    Raises:
        RecordError: naming those that are missing.
    """
    missing = [name for name in LIBRARIES if not _is_installed(name)]
    if missing:
        problem, expected = "recording needs libraries that are not installed here", ", ".join(LIBRARIES)
        hint = f"{INSTALL} (checking needs none of them: goldens check)"
        raise RecordError(problem, "the Python environment", expected, f"no {', no '.join(missing)}", hint=hint)


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # something stands in the way of the import
        return False


def checkpoint_directory(model: str) -> Path:
    """The directory of a model: as given, or downloaded from the hub.

    Raises:
        CheckpointError: no such directory, and no such model on the hub, or no way to it.
    """
    if _is_directory(model):
        return Path(model)
    if not HUB_ID.fullmatch(model) or model.startswith("."):
        expected, hint = "a directory with config.json, or an id on the hub (Qwen/Qwen2.5-0.5B)", "check --model"
        raise CheckpointError("there is no such checkpoint", shown(model), expected, _what_is_at(model), hint=hint)
    from huggingface_hub import list_repo_files, snapshot_download

    try:
        patterns = ["*.json", "*.safetensors", "merges.txt", "vocab.txt"]
        directory = Path(snapshot_download(model, allow_patterns=patterns))
        files = () if any(directory.glob("*.safetensors")) else list_repo_files(model)
    except Exception as error:  # the hub's client raises its own errors, the network's and the file system's
        problem = f"the model cannot be fetched from the hub: {first_line(error)}"
        hint = "check the id and the network, or download it elsewhere and give the directory to --model"
        raise CheckpointError(problem, shown(model), hint=hint) from None
    if files:
        problem = "the model has no weights in safetensors on the hub"
        raise CheckpointError(problem, shown(model), found=listed(files), hint=recognise.by_files(files))
    return directory


def _what_is_at(model: str) -> str:
    if model.endswith(".gguf"):
        return "a GGUF file: give the checkpoint that it was converted from"
    try:
        return "a file: give the directory that it lies in" if model and Path(model).exists() else "nothing"
    except (OSError, ValueError):
        return "no path"


def _is_directory(model: str) -> bool:
    try:
        return bool(model) and Path(model).is_dir()
    except (OSError, ValueError):  # too long for a name, or with a null byte
        return False


def _warn_without_why(entries: Sequence[Entry], console: Console) -> None:
    """Say which entries do not say what they are for: whoever reads a report of them will want to know."""
    silent = [entry.name for entry in entries if not entry.why]
    if silent:
        text = (
            f"warning: no why in {listed(silent, 5)}: say which class of bug each sees and its neighbours do not"
        )
        console.print(text, highlight=False, markup=False)


def _record(job: Job, corpus: Corpus, request: Request, console: Console) -> Summary:
    checkpoint = checkpoint_directory(job.model)
    from harness.record.progress import Bars, show_summary
    from harness.record.recorder import record

    options = _options(job, request)
    with Bars(console, f"{job.model_id} to {job.out}") as bars:
        summary = record(checkpoint, job.model_id, corpus, job.out, options, bars)
    show_summary(console, summary)
    return summary


def _estimate(job: Job, corpus: Corpus, request: Request, console: Console) -> None:
    checkpoint = checkpoint_directory(job.model)
    from harness.record.dry_run import estimate, show

    console.print(f"{job.model_id} to {job.out}", highlight=False, markup=False)
    show(estimate(checkpoint, corpus, _options(job, request)), job.out, console)


def _options(job: Job, request: Request) -> Options:
    from harness.record.recorder import Options

    return Options(
        level=request.level or "ops",
        dtype=request.dtype or "float64",
        cases=request.cases,
        device=request.device or "cpu",
        overwrite=job.overwrite,
        selected=Selected.asked(request.taps, request.layers),
        top=largest_of(request.logits),
    )
