"""Hostile corpora, configs, checkpoints.

Claims: whatever lies at a path, it is read or refused in few words (no traceback, no hang, no memory without
bound); and, where torch is installed, what is recorded is what transformers computes from that directory.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from harness import embedded
from harness.architecture import architecture_of, read_config
from harness.corpus import load_corpus
from harness.entries import KINDS, OPTIONAL
from harness.errors import CheckpointError, CorpusError, HarnessError
from harness.families.graph import taps_of
from harness.run.preflight import preflight
from harness.store import open_golden
from tests.campaign.checkpoints import Named, apply, changes, configs
from tests.campaign.hostile import VALUES, changed, damaged, toml
from tests.campaign.trials import CHARACTERS, BrokenClaimError, Tried

WHOLE: dict[str, dict[str, Any]] = {
    "prompt": {"name": "a", "text": "Hello world", "why": "w"},
    "decode": {"name": "b", "text": "Hello big world", "steps": 1},
    "batch": {"name": "c", "prompts": ["a"], "padding": "left"},
    "offset": {"name": "d", "text": "Hello world", "starts": [[0, 0], [1, 90]]},
    "generation": {"name": "e", "text": "Hello", "tokens": 2},
}


@st.composite
def corpora(draw: Any) -> bytes:
    """A corpus of one entry of each kind, one of which is not as it should be; or damaged bytes."""
    kind = draw(st.sampled_from(KINDS)).kind
    fields = st.sampled_from([*WHOLE[kind], *OPTIONAL, "x"]) | st.text(max_size=4)
    document: dict[str, Any] = {name: [table] for name, table in WHOLE.items()}
    document[kind] = [draw(changed(WHOLE[kind], fields))]
    document |= draw(st.dictionaries(st.sampled_from([*WHOLE, "x"]), VALUES, max_size=1).filter(_no_tables))
    content = toml(document).encode()
    return draw(st.just(content) | st.just(content) | damaged(content))


def _no_tables(document: dict[str, Any]) -> bool:
    return not any(isinstance(value, list) for value in document.values())


class Inputs:
    """A folder in which every trial lays out what it reads."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tiny = folder, embedded.directory() / "qwen2-tiny"
        self.golden = open_golden(embedded.golden())
        self.prompt = folder / "prompt.toml"
        self.prompt.write_text(
            "[[prompt]]\nname = 'hello'\ntext = 'Hello world'\nwhy = 'short'\nlevel = 'layers'\n"
        )

    def corpus(self, content: bytes) -> None:
        """Claim: it is read, and its digest taken, or it is refused."""
        path = self.folder / "corpus.toml"
        path.write_bytes(content)
        with only(CorpusError):
            corpus = load_corpus(path)
        assert corpus.digest and corpus.select([])

    def config(self, content: bytes) -> None:
        """Claim: it is an architecture, or it is refused."""
        (self.folder / "config.json").write_bytes(content)
        with only(CheckpointError):
            architecture = architecture_of(read_config(self.folder))
        assert taps_of(architecture)

    def checked(self, made: list[Named]) -> None:
        """Claim: what a check does before the port runs ends, and accepts nothing but the golden's own weights."""
        apply(self.tiny, self.folder / "checked", made)
        entry = self.golden.manifest.case("hello")
        preflight(self.golden, self.folder / "checked", [entry])

    def recorded(self, made: list[Named]) -> None:
        """Claim: `goldens record` exits with 0 or 2, and a golden holds what transformers computes."""
        directory, out = self.folder / "recorded", self.folder / "out.h5"
        apply(self.tiny, directory, made)
        code, said = run("--model", str(directory), "--corpus", str(self.prompt), "--out", str(out), "--force")
        if code not in (0, 2) or "Traceback" in said or len(said) > CHARACTERS:
            raise BrokenClaimError(f"exit {code}: {said[-1500:]}")
        if code == 0:
            self._is_what_transformers_computes(directory, out)
        else:
            raise CheckpointError("refused", hint=said.partition("hint:")[2].strip())

    def recorded_corpus(self, content: bytes) -> None:
        """Claim: the same of any corpus."""
        path, out = self.folder / "corpus.toml", self.folder / "out.h5"
        path.write_bytes(content)
        code, said = run("--model", str(self.tiny), "--corpus", str(path), "--out", str(out), "--force")
        if code not in (0, 2) or "Traceback" in said or len(said) > CHARACTERS:
            raise BrokenClaimError(f"exit {code}: {said[-1500:]}")
        if code == 2:
            raise CorpusError("refused", hint=said.partition("hint:")[2].strip())

    def _is_what_transformers_computes(self, directory: Path, out: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        with open_golden(out) as golden:
            ids, truth = golden.case("hello").input_ids, golden.tap("hello", "logits")
        (directory / "generation_config.json").unlink(missing_ok=True)  # how to sample: nothing is computed by it
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        with torch.inference_mode():
            theirs = model(torch.tensor(ids, dtype=torch.long)).logits.numpy()
        error = np.sqrt(np.mean((theirs - truth) ** 2) / np.mean(truth**2))
        if not error < 1e-3:
            raise BrokenClaimError(f"logits {error:.2g} from those of transformers")


@contextlib.contextmanager
def only(kind: type[HarnessError]) -> Any:
    """A refusal of another kind is not the one that was claimed."""
    try:
        yield
    except HarnessError as refusal:
        if not isinstance(refusal, kind):
            raise BrokenClaimError(f"{type(refusal).__name__}: {refusal}") from None
        raise


def run(*args: str) -> tuple[int, str]:
    """`goldens record` in this process: its exit code, and what it wrote to stderr."""
    from harness.cli import cli

    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = cli.main(["record", *args], prog_name="goldens", standalone_mode=True)
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
    return int(code or 0), said.getvalue()


def claims(folder: Path) -> list[Tried]:
    """All claims that can be tried here: those of the recorder need torch."""
    inputs = Inputs(folder)
    base = json.loads((inputs.tiny / "config.json").read_text())
    made = [
        Tried("a corpus is read or refused", corpora(), inputs.corpus),
        Tried("a config is read or refused", configs(base), inputs.config),
        Tried("a checkpoint passes or is refused before a check", changes(inputs.tiny), inputs.checked),
    ]
    if has_torch():
        recorded = "a checkpoint is recorded as transformers computes, or refused"
        made += [
            Tried(recorded, changes(inputs.tiny), inputs.recorded, share=0.5),
            Tried("a corpus is recorded or refused", corpora(), inputs.recorded_corpus, share=0.5),
        ]
    return made


def has_torch() -> bool:
    try:
        import torch
        import transformers
    except ImportError:
        return False
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    return True
