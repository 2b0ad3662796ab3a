"""The files of a git revision in a temporary worktree.

The user's checkout and index are not touched, uncommitted changes are not seen, and submodules are empty. The
worktree is removed afterwards, also after a failure, Ctrl-C or, where the caller makes it an exception, SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError

# Set by git for its hooks and aliases; they would point every git command at another repository.
GIT_LOCATIONS = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_PREFIX",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
)


@dataclass(frozen=True)
class Revision:
    """A commit of the repository that the current directory is in.

    Attributes:
        name: as the user wrote it.
        root: the top of the user's checkout.
        directory: the current directory below it; the port runs at the same place in the worktree.
    """

    name: str
    sha: str
    root: Path
    directory: Path


def resolve(name: str) -> Revision:
    """The commit that a revision names, in the repository of the current directory.

    Raises:
        UsageError: no git, no repository, or an unknown revision.
    """
    here = Path.cwd().resolve()
    hint = "run this inside the port's repository, or save the check there with goldens check --json"
    try:
        root = _git(here, "rev-parse", "--show-toplevel")
    except FileNotFoundError:
        raise UsageError("git is not installed", where=f"git:{name}", hint="install git") from None
    except subprocess.CalledProcessError as error:
        problem = "the current directory is not in a git checkout"
        raise UsageError(problem, here, found=_last_line(error.stderr), hint=hint) from None
    try:
        sha = _git(here, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    except subprocess.CalledProcessError:
        problem, expected = "the repository has no such revision", "a branch, a tag or a commit of this repository"
        hint = "`git fetch` brings branches here; a shallow checkout needs `git fetch --unshallow`"
        raise UsageError(problem, f"git:{name}", expected, name or "nothing", hint=hint) from None
    return Revision(name, sha, Path(root), here.relative_to(root))


@contextlib.contextmanager
def worktree(revision: Revision, scratch: Path) -> Iterator[Path]:
    """The files of a revision in a temporary folder, for as long as the block runs."""
    tree = scratch.resolve() / "tree"
    try:
        try:
            # No hooks: the user's post-checkout hook is about the user's checkout.
            _git(
                revision.root,
                *("-c", f"core.hooksPath={os.devnull}"),
                *("worktree", "add", "--detach", str(tree), revision.sha),
            )
        except subprocess.CalledProcessError as error:
            problem, where = "git could not check the revision out", f"git:{revision.name} ({revision.sha[:12]})"
            hint = f"try it: git worktree add --detach /tmp/tree {revision.name}"
            raise UsageError(problem, where, found=_last_line(error.stderr), hint=hint) from None
        yield tree
    finally:
        if tree.exists():
            _git(revision.root, "worktree", "remove", "--force", str(tree))


def _git(directory: Path, *args: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in GIT_LOCATIONS}
    command = ["git", "-C", str(directory), *args]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, err = process.communicate()
        except BaseException:
            # Not killed, as subprocess.run would: on SIGTERM git takes a half-made worktree back by itself.
            process.terminate()
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, out, err)
    return out.strip()


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing"])[-1]
