"""What can go wrong, in one place.

Every refusal of the harness is a `HarnessError`: a problem, where it is, what was expected, what was
found, and the next command to type. The command line prints it and exits with code 2.

    HarnessError
    ├── GoldenError       the artifact: missing, foreign, damaged, newer, another level
    ├── CorpusError       the prompts: malformed corpus, unknown case, wrong token ids
    ├── CheckpointError   the weights: missing or extra parameter, another checkpoint, unsupported config
    ├── PortError         the port under test: not importable, raises, breaks its contract
    ├── RecordError       the recording: not reproducible, no room, another recording at work
    └── UsageError        the question: unknown precision, unknown mode, nothing selected
"""

from __future__ import annotations

LONGEST_LINE = 300
# What a person reads of one fact; a longer one is cut, and says so.
MOST_CHARACTERS = 1000


def shortened(value: object, most: int = MOST_CHARACTERS) -> str:
    """A value as text that a message can hold: long text is cut, and what cannot be shown says so."""
    try:
        text = str(value)
    except Exception as error:
        return f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"
    if len(text) <= most:
        return text
    return f"{text[:most]}... (cut: {len(text):,} characters in all)"


class HarnessError(Exception):
    """A refusal with its remedy. Whatever it is given, its message is short.

    Args:
        problem: one sentence, what is wrong.
        where: the file, array, tap, parameter or field.
        expected: what would have been right.
        found: what is there instead.
        hint: the next thing to do, best of all a command.
    """

    def __init__(
        self, problem: str, where: object = None, expected: object = None, found: object = None, *, hint: str
    ) -> None:
        self.problem = shortened(problem)
        self.where, self.expected, self.found = (
            None if fact is None else shortened(fact) for fact in (where, expected, found)
        )
        self.hint = shortened(hint)
        super().__init__(self.problem)

    def kind(self) -> type[HarnessError]:
        """Which of the classes of this file it is: one that is made from a problem and its facts."""
        return next(base for base in type(self).__mro__ if base.__module__ == __name__)

    def __str__(self) -> str:
        facts = (("where", self.where), ("expected", self.expected), ("found", self.found))
        lines = [self.problem]
        lines += [f"  {label + ':':<9} {value}" for label, value in facts if value is not None]
        return "\n".join([*lines, "", f"hint: {self.hint}"])


def first_line(error: BaseException) -> str:
    """What another library's exception says, in one line of bounded length."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 3]}..."


class GoldenError(HarnessError):
    """The golden is missing, foreign, damaged, of a newer format, or lacks what was asked of it."""


class CorpusError(HarnessError):
    """The corpus is malformed, or its token ids are not what they must be."""


class CheckpointError(HarnessError):
    """The checkpoint is incomplete, another one, or of an architecture that is not supported."""


class PortError(HarnessError):
    """The port cannot be imported, raises, or does not keep its contract."""


class RecordError(HarnessError):
    """The recording cannot be trusted or cannot be finished."""


class UsageError(HarnessError):
    """The question itself is wrong: an unknown name, or nothing selected."""
