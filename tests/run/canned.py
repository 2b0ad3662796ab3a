"""A check of a revision that answers from saved reports: for tests of what surrounds the check, and is no check.

The process at the revision, its worktree, what it imports and what it refuses are real; nothing is compiled in it.
"""

from __future__ import annotations

from harness.run.revision import BOOTSTRAP

# What a canned check loads; `right` says which report it answers with.
WRONG = """
class Port:
    right = False

    @classmethod
    def load(cls, checkpoint, config, dtype, mesh):
        operations = None
        return cls()

    def forward(self, *args):
        raise AssertionError("a canned check runs no port")
"""
RIGHT = WRONG.replace("right = False", "right = True")

CHECK = """
import types
def check(golden, weights, spec, question):
    import dataclasses, json, pathlib
    from harness.report.reading import read_report
    from harness.run.loading import load_port
    port = load_port(spec, weights, json.loads((weights / "config.json").read_text()), "float32")
    return dataclasses.replace(read_report(pathlib.Path({right!r} if port.right else {wrong!r})), port=spec)
sys.modules["harness.run.check"] = types.ModuleType("harness.run.check")
sys.modules["harness.run.check"].check = check
"""
START = "from harness.run.revision import main\n"


def bootstrap(right: str, wrong: str) -> str:
    """What the process at the revision runs: `harness.run.revision.BOOTSTRAP`, with the check replaced."""
    assert BOOTSTRAP.count(START) == 1
    return BOOTSTRAP.replace(START, CHECK.format(right=right, wrong=wrong) + START)
