"""The transcript of harness/report: a port with a planted bug, the failing report, the fix, the diff.

    python -m tests.transcript

runs the commands in a repository of its own, and writes what they print into harness/report/README.md, and the
head of the failing report into the README.
`tests/test_transcript.py` runs them again, and refuses documents that show anything but this, numbers aside.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests import zygote
from tests.documents import ROOT, port, read

PLACE, FRONT = "harness/report/README.md", "README.md"
START, END = "<!-- transcript -->\n", "<!-- end of transcript -->"
EXCERPT, END_OF_EXCERPT = "<!-- excerpt of the transcript -->\n", "<!-- end of excerpt -->"
RIGHT, WRONG = "angle = positions", "angle = -positions"
SELECTION = "--precision float32 --case hello --case one-to-five"
COMMANDS = (
    "git show --stat --format=%s",
    f"goldens check --port my_port:Port {SELECTION}",
    f"sed -i 's/{WRONG}/{RIGHT}/' my_port.py",
    f"goldens diff --before git:HEAD --after my_port:Port {SELECTION}",
)


def transcript() -> str:
    """What a user types and sees, as one console block."""
    code = port("by hand")
    assert code.count(RIGHT) == 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "my_port.py").write_text(code.replace(RIGHT, WRONG))
        for command in ("git init -q .", "git add my_port.py", "git commit -q -m 'RoPE, simplified'"):
            _run(command, folder)
        return "\n".join(f"$ {command}\n{_run(command, folder)}" for command in COMMANDS)


def excerpt(text: str) -> str:
    """The failing check: its head, its first finding and the name of the bug, with `...` for what is between."""
    check = text[text.index("$ goldens check") :]
    head, finding, *_ = check.split("  introduced at  ")
    name = check[check.index("  looks like: ") :].partition("\n\n")[0]
    return f"{head}  introduced at  {finding}  ...\n\n{name}"


def shown(name: str, start: str, end: str) -> str:
    """What a document shows between two marks."""
    return read(name).partition(start)[2].partition(end)[0]


def as_block(text: str) -> str:
    return f"```console\n{text.rstrip()}\n```\n"


def _run(command: str, folder: Path) -> str:
    """Output of a command, without the white space at line ends; a failing check is part of the story."""
    scripts = Path(sys.executable).parent
    identity = {f"GIT_{who}_{what}": "port" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **identity, "PATH": f"{scripts}:{os.environ['PATH']}", "COLUMNS": "110"}
    how: dict[str, Any] = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
    if command.startswith("goldens diff"):  # the check before it is the script's own process
        done = zygote.run([sys.executable, "-m", "harness.cli", *shlex.split(command)[1:]], **how)
    else:
        done = subprocess.run(command, shell=True, **how)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{command}\n{done.stdout}{done.stderr}")
    lines = [line.rstrip() for line in done.stdout.replace(f"{ROOT}/", "").splitlines()]
    return "\n".join([*lines, f"[exit {done.returncode}]"] if "goldens" in command else lines) + "\n"


def main() -> None:
    text = transcript()
    for name, start, end, block in ((PLACE, START, END, text), (FRONT, EXCERPT, END_OF_EXCERPT, excerpt(text))):
        before, _, rest = read(name).partition(start)
        after = rest.partition(end)[2]
        (ROOT / name).write_text(f"{before}{start}{as_block(block)}{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
