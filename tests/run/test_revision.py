"""A port as it stands at a git revision: of that revision and nothing else, and nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import harness
from harness.cli import cli
from harness.run.revision import paths_at
from tests import zygote
from tests.run import canned

FAST = ("--precision", "float32", "--case", "digits", "--mode", "replay")
PORT = """
from dataclasses import replace
from harness.run.decoder import Decoder
from harness.run.operations import OPERATIONS

class Port:
    @classmethod
    def load(cls, checkpoint, config, dtype, mesh):
        operations = replace(OPERATIONS, rotate_k=lambda x, angles: x)
        return Decoder.load(checkpoint, config, dtype, mesh, operations=operations)
"""
MENDED = PORT.replace("rotate_k=lambda x, angles: x", "")
HALF = "        raise ValueError('half written')\n        operations ="
RAISES = PORT.replace("        operations =", HALF)
RAISES_CANNED = canned.RIGHT.replace("        operations =", HALF)


class Repository:
    """A git repository with a port in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self.git("init", "--quiet")

    def git(self, *args: str) -> str:
        identity = ("-c", "user.name=someone", "-c", "user.email=someone@example.org")
        done = subprocess.run(["git", *identity, *args], cwd=self.root, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, files: dict[str, str]) -> None:
        for name, content in files.items():
            self.write(name, content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "change")

    def write(self, name: str, content: str) -> None:
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)

    @property
    def worktrees(self) -> int:
        return len(self.git("worktree", "list").splitlines())


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where temporary files go."""
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(path))
    monkeypatch.setenv("TMPDIR", str(path))
    return path


@pytest.fixture
def repository(tmp_path, monkeypatch, scratch):
    """A bug at HEAD~1, mended at HEAD; afterwards nothing may be left of any worktree."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    found = Repository(tmp_path / "repository")
    found.commit({"my_port.py": PORT})
    found.commit({"my_port.py": MENDED})
    monkeypatch.chdir(found.root)
    yield found
    assert found.worktrees == 1
    assert list(scratch.iterdir()) == []


def saved(place: Path, *args: str) -> str:
    assert CliRunner().invoke(cli, ["check", *FAST, *args, "--json", str(place)]).exit_code < 2
    return str(place)


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    """A saved check of the right port, for tests that are about one revision alone."""
    return saved(tmp_path_factory.mktemp("saved") / "right.json")


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("saved") / "wrong.json", "--port", "tests.run.candidates:WrongRope")


@pytest.fixture
def canned_check(monkeypatch, forked_check, right, wrong):
    """For tests that are not about what a check computes: see `tests.run.canned`."""
    monkeypatch.setattr("harness.run.revision.BOOTSTRAP", canned.bootstrap(right, wrong))


@pytest.fixture
def forked_check(monkeypatch):
    """For tests that are not about how the process at the revision starts."""
    monkeypatch.setattr("harness.run.revision.subprocess", zygote)


def diff(*args: str):
    return CliRunner().invoke(cli, ["diff", *FAST, *args])


def diff_outside(*args: str, run=zygote.run, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own: a port in this one would stay imported."""
    return run(
        [sys.executable, "-m", "harness.cli", "diff", *FAST, *args],
        env={**os.environ, "PYTHONPATH": str(Path(harness.__file__).parent.parent), **environment},
        capture_output=True,
        text=True,
    )


def refused(result, *words):
    assert result.exit_code == 2, result.output
    assert "hint: " in result.stderr
    for word in words:
        assert word in result.stderr


def test_a_pull_request_needs_one_command(repository):
    result = diff_outside("--before", "git:HEAD~1", "--after", "my_port:Port", run=subprocess.run)
    assert result.returncode == 0, result.stderr
    assert "BETTER" in result.stdout
    assert "layers.*.k_rope" in result.stdout
    assert f"git:HEAD~1  my_port:Port  commit {repository.git('rev-parse', 'HEAD~1')[:12]}" in result.stdout


def test_two_revisions_and_the_broken_one_exits_with_1(repository, forked_check):
    result = diff("--before", "git:HEAD:my_port:Port", "--after", "git:HEAD~1")
    assert result.exit_code == 1, result.output
    assert "WORSE" in result.stdout


def test_uncommitted_changes_are_not_seen_and_neither_checkout_nor_index_is_touched(
    repository, wrong, canned_check
):
    repository.commit({"my_port.py": canned.RIGHT})
    repository.write("staged.py", "")
    repository.git("add", "staged.py")
    repository.write("my_port.py", canned.WRONG)
    before = repository.git("status", "--porcelain"), (repository.root / ".git" / "index").read_bytes()
    result = diff("--before", "git:HEAD:my_port:Port", "--after", wrong)
    assert result.exit_code == 1, result.output
    assert "WORSE" in result.stdout
    assert (repository.git("status", "--porcelain"), (repository.root / ".git" / "index").read_bytes()) == before


def test_a_saved_check_says_which_port_a_revision_is_about(repository, tmp_path, right, canned_check):
    repository.commit({"my_port.py": canned.WRONG})
    path = tmp_path / "before.json"
    path.write_text(json.dumps({**json.loads(Path(right).read_text()), "port": "my_port:Port"}))
    result = diff("--before", str(path), "--after", "git:HEAD")
    assert result.exit_code == 1, result.output


@pytest.mark.parametrize("how", ["sys.path", "editable install"])
def test_a_package_under_src_is_taken_from_the_revision(repository, tmp_path, monkeypatch, how, right):
    """As an editable install puts it there: by a path, or by a finder that no path tells of."""
    repository.commit({"src/other_port.py": PORT})
    repository.commit({"src/other_port.py": MENDED})
    source = repository.root / "src"
    home = Path(harness.__file__).parent.parent
    if how == "sys.path":
        path = source
        monkeypatch.syspath_prepend(source)
    else:
        path = tmp_path / "site"
        path.mkdir()
        finder = (
            "import importlib.util, sys\n"
            "class Finder:\n"
            "    @staticmethod\n"
            "    def find_spec(name, path=None, target=None):\n"
            "        if name == 'other_port':\n"
            f"            return importlib.util.spec_from_file_location(name, {str(source / 'other_port.py')!r})\n"
            "sys.meta_path.append(Finder)\n"
        )
        (path / "sitecustomize.py").write_text(finder)
        monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
        exec(finder, {})
    monkeypatch.setenv("PYTHONPATH", f"{path}:{home}")  # of the process at the revision
    result = diff("--before", "git:HEAD~1:other_port:Port", "--after", right)
    assert result.exit_code == 0, result.output
    assert "BETTER" in result.stdout


def test_an_environment_inside_the_repository_stays_where_it_is(tmp_path, monkeypatch):
    """It is not in the revision; the harness and jax may well be in it."""
    checkout, tree = tmp_path / "checkout", tmp_path / "tree"
    (checkout / ".venv").mkdir(parents=True)
    installed = str(checkout / ".venv" / "lib" / "python3.11" / "plugins")
    monkeypatch.setattr(sys, "prefix", str(checkout / ".venv"))
    monkeypatch.setattr(sys, "path", ["", str(checkout), str(checkout / "src"), installed, "/elsewhere"])
    found = paths_at("no_such_port:Port", checkout, tree)
    assert found == (str(tree), str(tree / "src"), installed, "/elsewhere")


def test_the_same_place_below_the_top_of_the_repository(repository, monkeypatch, right, canned_check):
    repository.commit({"ports/deep_port.py": canned.WRONG})
    repository.commit({"ports/deep_port.py": canned.RIGHT})
    monkeypatch.chdir(repository.root / "ports")
    assert diff("--before", "git:HEAD~1:deep_port:Port", "--after", right).exit_code == 0
    refused(
        diff("--before", "git:HEAD~3:deep_port:Port", "--after", right),
        "the current directory does not exist at that revision",
        "expected: ports/",
    )


def test_a_relative_path_of_weights_is_the_users_and_not_the_revisions(
    repository, checkpoint, right, forked_check
):
    shutil.copytree(checkpoint, repository.root / "weights")
    (repository.root / ".git" / "info" / "exclude").write_text("weights\n")
    result = diff("--before", "git:HEAD~1:my_port:Port", "--after", right, "--weights", "weights")
    assert result.exit_code == 0, result.output


def test_a_port_of_another_place_is_not_the_port_of_that_revision(repository, tmp_path, monkeypatch, canned_check):
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "foreign_port.py").write_text(canned.RIGHT)
    monkeypatch.syspath_prepend(tmp_path / "installed")
    refused(
        diff("--before", "git:HEAD~1:foreign_port:Port", "--after", "git:HEAD:my_port:Port"),
        "the port was not imported from the revision",
        "module foreign_port",
        f"found:    {tmp_path / 'installed' / 'foreign_port.py'}",
        "--before git:HEAD~1",
    )


def test_the_built_in_port_is_the_installed_one_and_no_revision_of_it(repository, canned_check):
    refused(
        diff("--before", "git:HEAD~1", "--after", "harness.run.decoder:Decoder"),
        "the port was not imported from the revision",
        str(Path("harness") / "run" / "decoder.py"),
    )


def test_a_helper_out_of_the_checkout_is_refused_also_when_it_is_imported_late(repository, right, canned_check):
    repository.commit({"lib/helper.py": "", "my_port.py": canned.RIGHT})
    late = f"        import sys; sys.path.insert(0, {str(repository.root / 'lib')!r}); import helper\n"
    repository.commit({"my_port.py": canned.RIGHT.replace("        operations =", f"{late}        operations =")})
    refused(
        diff("--before", "git:HEAD:my_port:Port", "--after", right),
        "the port imports a module of the checkout instead of the revision's",
        "module helper",
        str(repository.root / "lib" / "helper.py"),
    )


def test_a_harness_folder_in_the_repository_does_not_take_the_place_of_the_harness(
    repository, monkeypatch, right, canned_check
):
    monkeypatch.syspath_prepend(repository.root)
    repository.commit({"harness/__init__.py": "raise SystemExit('the wrong harness')", "my_port.py": canned.WRONG})
    repository.commit({"my_port.py": canned.RIGHT})
    assert diff("--before", "git:HEAD~1:my_port:Port", "--after", right).exit_code == 0


def test_a_port_that_does_not_exist_at_that_revision_is_refused(repository, canned_check):
    repository.commit({"new_port.py": canned.RIGHT})
    refused(
        diff("--before", "git:HEAD~1:new_port:Port", "--after", "git:HEAD"),
        "the port cannot be imported",
        "--before git:HEAD~1 (",
        "git:REV:package.module:Name",
    )


@pytest.mark.parametrize("name", ["no-such-branch", "", "--all", "HEAD~99", "HEAD^{tree}"])
def test_an_unknown_revision_is_refused(repository, name):
    refused(diff("--before", f"git:{name}", "--after", "my_port:Port"), "no such revision", "git fetch")


def test_outside_a_repository_there_is_no_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    refused(diff("--before", "git:HEAD", "--after", "my_port:Port"), "is not in a git checkout")


def test_without_git_there_is_no_revision(repository, monkeypatch):
    with monkeypatch.context() as context:
        context.setenv("PATH", "/nonexistent")
        refused(diff("--before", "git:HEAD", "--after", "my_port:Port"), "git is not installed")


def test_two_revisions_and_no_port_is_refused(repository):
    refused(diff("--before", "git:HEAD~1", "--after", "git:HEAD"), "neither side says which port it is")


def test_a_port_that_raises_at_the_revision_is_blamed_there(repository, right, canned_check):
    repository.commit({"my_port.py": RAISES_CANNED})
    refused(
        diff("--before", "git:HEAD:my_port:Port", "--after", right),
        "the port raised ValueError: half written",
        "--before git:HEAD (",
    )


def test_a_process_that_dies_is_not_an_answer(repository, right, canned_check):
    repository.commit(
        {
            "my_port.py": RAISES_CANNED.replace(
                "raise ValueError('half written')", "import os; os.kill(os.getpid(), 9)"
            )
        }
    )
    refused(
        diff("--before", "git:HEAD:my_port:Port", "--after", right),
        "ended without a result",
        "exit code -9",
    )


def test_a_port_that_prints_does_not_spoil_the_data_on_stdout(repository, right):
    repository.commit({"my_port.py": f"print('hello from the port')\n{PORT}"})
    result = diff_outside("--before", "git:HEAD:my_port:Port", "--after", right, "--json", "-")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("{")
    assert "hello from the port" in result.stderr


def test_the_users_hooks_do_not_run_and_a_hooks_own_variables_do_no_harm(
    repository, tmp_path, monkeypatch, right, canned_check
):
    repository.commit({"my_port.py": canned.WRONG})
    hook = repository.root / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    hook.chmod(0o755)
    with monkeypatch.context() as context:
        context.setenv("GIT_DIR", "/nonexistent")
        context.setenv("GIT_INDEX_FILE", "/nonexistent")
        assert diff("--before", "git:HEAD:my_port:Port", "--after", right).exit_code == 0
    assert not (tmp_path / "ran").exists()


# A test run in the background ignores SIGINT, and so would its children.
MINDING_SIGINT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from harness.cli import cli
cli()
"""


WAITS = "import time; open({!r}, 'w').close(); time.sleep(60)"


def start(*program: str) -> subprocess.Popen[str]:
    """A diff of a revision in a session of its own."""
    return zygote.Popen(
        [
            *(sys.executable, *program, "diff", *FAST),
            *("--before", "git:HEAD:my_port:Port", "--after", "git:HEAD~1"),
        ],
        env={**os.environ, "PYTHONPATH": str(Path(harness.__file__).parent.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def until(place: Path) -> None:
    for _ in range(6000):
        if place.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"nobody has made {place}")


def test_ctrl_c_leaves_no_worktree_behind(repository, tmp_path):
    waiting = WAITS.format(str(tmp_path / "at-work"))
    repository.commit({"my_port.py": RAISES.replace("raise ValueError('half written')", waiting)})
    process = start("-c", MINDING_SIGINT)
    until(tmp_path / "at-work")
    assert repository.worktrees == 2
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: every process of the group
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "interrupted" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("everybody", [False, True], ids=["the process alone", "its whole group"])
def test_sigterm_leaves_no_worktree_behind_and_exits_with_143(repository, tmp_path, everybody):
    """CI systems end a job so; some tell the process that they started, others all of its group."""
    waiting = WAITS.format(str(tmp_path / "at-work"))
    repository.commit({"my_port.py": RAISES.replace("raise ValueError('half written')", waiting)})
    process = start("-m", "harness.cli")
    until(tmp_path / "at-work")
    assert repository.worktrees == 2
    (os.killpg if everybody else os.kill)(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)  # the port would sleep on: it is ended too
    assert process.returncode == 128 + signal.SIGTERM
    assert stderr.splitlines()[-1] == "terminated"
    assert "Traceback" not in stderr


def test_sigterm_while_git_checks_the_revision_out_leaves_no_half_made_worktree(repository, tmp_path):
    repository.commit({".gitattributes": "*.py filter=slow"})
    repository.git("config", "filter.slow.smudge", f"touch {tmp_path / 'at-work'}; sleep 3; cat")
    process = start("-m", "harness.cli")
    until(tmp_path / "at-work")
    assert len(list((repository.root / ".git" / "worktrees").iterdir())) == 1
    os.kill(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGTERM
    assert stderr.splitlines()[-1] == "terminated"
    assert not list((repository.root / ".git").glob("worktrees/*"))
