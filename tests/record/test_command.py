"""`goldens record`, and the script that calls it, as a user types them: defaults, refusals, summary."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

from rich.console import Console

import harness
from harness import embedded
from harness.errors import CheckpointError, HarnessError, RecordError, UsageError
from harness.record import command
from harness.record.command import Job, Request, checkpoint_directory, plan, require_torch
from harness.store import open_golden
from tests import zygote

ROOT = Path(harness.__file__).parents[1]
SCRIPT = ROOT / "generate_goldens.py"
ENVIRONMENT = {"HF_HUB_OFFLINE": "1"}


def words(*args):
    return [sys.executable, str(SCRIPT), *map(str, args)]


def run(*args):
    env = os.environ | ENVIRONMENT
    return zygote.run(
        words(*args), imported=zygote.RECORDING, capture_output=True, text=True, timeout=120, env=env
    )


def test_a_recording_prints_its_id_on_stdout_and_its_summary_on_stderr(tiny, tmp_path):
    out = tmp_path / "a.h5"
    args = ("--model", tiny, "--out", out, "--case", "hello", "--case", "digits", "--level", "layers")
    done = subprocess.run(words(*args), capture_output=True, text=True, timeout=120, env=os.environ | ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    with open_golden(out) as golden:
        assert done.stdout.strip() == golden.id
        assert golden.manifest.model.id == "qwen2-tiny"
        assert [case.name for case in golden.manifest.cases] == ["hello", "digits"]
    for word in ("2 cases", "14 taps", "noise", str(out), "layers.3"):
        assert word in done.stderr


def test_a_refusal_is_a_message_on_stderr_and_exit_code_2(tiny, tmp_path):
    done = run("--model", tiny, "--out", tmp_path / "a.h5", "--case", "no-such-case")
    assert done.returncode == 2
    assert done.stderr.startswith("error: the corpus has no entry of this name")
    assert "hint:" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_without_arguments_the_embedded_goldens_are_recorded_over_those_that_are_there():
    jobs = {Path(job.model).name: job for job in plan(Request())}
    at = embedded.directory()
    assert {job.out for job in jobs.values()} == {str(path) for path in embedded.goldens()}
    tiny, window = jobs.pop("qwen2-tiny"), jobs.pop("qwen2-window")
    assert {job.corpus for job in jobs.values()} == {at / "families.toml"}
    assert tiny == Job(str(at / "qwen2-tiny"), "qwen2-tiny", at / "corpus.toml", str(at / "qwen2-tiny.h5"), True)
    assert Path(tiny.out) == embedded.golden()
    assert window == Job(
        str(at / "qwen2-window"), "qwen2-window", at / "qwen2-window.toml", str(at / "qwen2-window.h5"), True
    )
    assert Path(window.out).is_file()


@pytest.mark.parametrize(
    "request_",
    [Request(level="logits"), Request(cases=("hello",)), Request(dtype="float32"), Request(corpus=Path("x.toml"))],
)
def test_the_embedded_goldens_are_not_recorded_in_part(request_):
    with pytest.raises(UsageError, match="only recorded as a whole"):
        plan(request_)


def test_another_recording_of_the_embedded_checkpoint_does_not_overwrite(tmp_path):
    (job,) = plan(Request(out=str(tmp_path / "a.h5"), level="logits"))
    assert job.model_id == "qwen2-tiny" and not job.overwrite
    assert plan(Request(out="a.h5", force=True))[0].overwrite


def test_the_output_is_named_after_the_model(tiny):
    assert plan(Request(model=str(tiny)))[0].out == "qwen2-tiny.h5"
    corpus = embedded.directory() / "corpus.toml"
    assert plan(Request(model="Qwen/Qwen2.5-0.5B"))[0] == Job(
        "Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B", corpus, "Qwen2.5-0.5B.h5", False
    )
    assert plan(Request(model=str(tiny), corpus=Path("mine.toml")))[0].corpus == Path("mine.toml")


def test_a_golden_is_called_by_its_directory_not_by_its_path(tiny, monkeypatch):
    monkeypatch.chdir(tiny)
    assert plan(Request(model="."))[0].model_id == "qwen2-tiny"


@pytest.mark.parametrize("model", ["no-such-directory", "./no/such", "/no/such/directory"])
def test_a_directory_that_is_not_there_is_refused(model):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint_directory(model)


def test_a_hub_that_cannot_be_reached_is_a_clear_refusal(monkeypatch, tmp_path):
    import huggingface_hub

    def unreachable(*_, **__):
        raise ConnectionError("Name or service not known\nand forty more lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(CheckpointError, match="cannot be fetched from the hub: Name or service") as refusal:
        checkpoint_directory("Qwen/Qwen2.5-0.5B")
    assert "directory to --model" in refusal.value.hint
    assert "forty" not in str(refusal.value)


def test_missing_torch_is_a_clear_refusal_before_anything_is_read(monkeypatch, tiny, tmp_path):
    there = command._is_installed
    monkeypatch.setattr(command, "_is_installed", lambda name: name != "torch" and there(name))
    with pytest.raises(RecordError, match="not installed") as refusal:
        command.run(Request(model=str(tiny), out=str(tmp_path / "a.h5")), Console(stderr=True))
    assert refusal.value.found == "no torch"
    assert "pip install -e '.[record]'" in refusal.value.hint


def test_with_everything_installed_nothing_is_missing():
    require_torch()


@pytest.mark.parametrize(
    "content", ["", "[[prompt]]\nname = 'a'\n", "not toml", "[[prompt]]\nname='A B'\ntext='x'\nwhy='y'\n"]
)
def test_a_bad_corpus_is_refused_before_torch_is_imported(tiny, tmp_path, content, monkeypatch):
    monkeypatch.setattr(command, "require_torch", lambda: pytest.fail("went on with a bad corpus"))
    file = tmp_path / "corpus.toml"
    file.write_text(content)
    with pytest.raises(HarnessError):
        command.run(Request(model=str(tiny), corpus=file, out=str(tmp_path / "a.h5")), Console(stderr=True))


def test_entries_without_a_why_are_recorded_with_a_warning(tiny, tmp_path):
    corpus = tmp_path / "corpus.toml"
    corpus.write_text("[[prompt]]\nname = 'a'\ntext = 'a'\n[[prompt]]\nname = 'b'\ntext = 'b'\nwhy = 'it is b'\n")
    done = run("--model", tiny, "--corpus", corpus, "--out", tmp_path / "a.h5", "--level", "logits")
    assert done.returncode == 0, done.stderr
    assert "warning: no why in a: say which class of bug" in " ".join(done.stderr.split())
    with open_golden(tmp_path / "a.h5") as golden:
        assert [case.why for case in golden.manifest.cases] == ["", "it is b"]


def test_in_an_installed_package_the_embedded_goldens_are_not_recorded_over(monkeypatch):
    monkeypatch.setattr(embedded, "in_checkout", lambda: False)
    with pytest.raises(UsageError, match="in a checkout only"):
        plan(Request())
    assert plan(Request(out="a.h5"))[0].out == "a.h5"


@pytest.mark.parametrize("model", ["x" * 5000, "a\0b", "", "model.gguf", "\udcff"])
def test_what_is_no_path_is_no_checkpoint(model):
    with pytest.raises(CheckpointError, match="no such checkpoint") as refusal:
        checkpoint_directory(model)
    assert len(str(refusal.value)) < 1000


@pytest.mark.parametrize(
    ("file", "says"),
    [("pytorch_model.bin", "pickled weights"), ("model-q4_0.gguf", "GGUF"), ("README.md", "format")],
)
def test_a_model_without_safetensors_on_the_hub_says_what_is_there(monkeypatch, tmp_path, file, says):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda _: ["config.json", file])
    with pytest.raises(CheckpointError, match="no weights in safetensors") as refusal:
        checkpoint_directory("somebody/model")
    assert says in refusal.value.hint
    (tmp_path / "model.safetensors").touch()
    assert checkpoint_directory("somebody/model") == tmp_path


@pytest.mark.parametrize(
    ("sent", "code", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_recording_that_is_stopped_says_that_it_goes_on(tiny, tmp_path, sent, code, said):
    args = words("--model", tiny, "--out", tmp_path / "a.h5")
    how = {"stderr": subprocess.PIPE, "text": True, "env": os.environ | ENVIRONMENT}
    with zygote.Popen(args, imported=zygote.RECORDING, **how) as process:
        until = time.monotonic() + 120
        while not (tmp_path / "a.h5.partial" / "units").exists() and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(sent)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert f"the same command goes on where this one stopped\n{said}" in stderr
    assert not (tmp_path / "a.h5").exists() and (tmp_path / "a.h5.partial").is_dir()
