"""The README's transcript: a port with a planted bug, the failing report, the fix, the diff.

    python -m tests.transcript

runs the commands in a repository of its own and writes what they print into the README.
`tests/test_transcript.py` runs them again, and refuses a README that shows anything but this, numbers aside.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
PORT = "<!-- port: by hand -->"
START, END = "<!-- transcript -->\n", "<!-- end of transcript -->"
RIGHT, WRONG = "a * cos - b * sin", "a * cos + b * sin"
SELECTION = "--precision float32 --case hello --case one-to-five"
COMMANDS = (
    "git show --stat --format=%s",
    f"goldens check --port my_port:Port {SELECTION}",
    f"sed -i 's/{WRONG.replace('*', '[*]')}/{RIGHT}/' my_port.py",
    f"goldens diff --before git:HEAD --after my_port:Port {SELECTION}",
)


def transcript() -> str:
    """What a user types and sees, as one console block."""
    code = re.search(r"```python\n(.*?)```", README.read_text("utf-8").partition(PORT)[2], flags=re.DOTALL)
    assert code is not None
    assert code[1].count(RIGHT) == 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "my_port.py").write_text(code[1].replace(RIGHT, WRONG))
        for command in ("git init -q .", "git add my_port.py", "git commit -q -m 'RoPE, simplified'"):
            _run(command, folder)
        return "\n".join(f"$ {command}\n{_run(command, folder)}" for command in COMMANDS)


def in_readme() -> str:
    """The transcript that the README shows."""
    return README.read_text("utf-8").partition(START)[2].partition(END)[0]


def as_block(text: str) -> str:
    return f"```console\n{text.rstrip()}\n```\n"


def _run(command: str, folder: Path) -> str:
    """Output of a command, without the white space at line ends; a failing check is part of the story."""
    scripts = Path(sys.executable).parent
    identity = {f"GIT_{who}_{what}": "port" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **identity, "PATH": f"{scripts}:{os.environ['PATH']}", "COLUMNS": "110"}
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{command}\n{done.stdout}{done.stderr}")
    lines = [line.rstrip() for line in done.stdout.replace(str(README.parent) + "/", "").splitlines()]
    return "\n".join([*lines, f"[exit {done.returncode}]"] if "goldens" in command else lines) + "\n"


def main() -> None:
    before, _, rest = README.read_text("utf-8").partition(START)
    after = rest.partition(END)[2]
    README.write_text(f"{before}{START}{as_block(transcript())}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
