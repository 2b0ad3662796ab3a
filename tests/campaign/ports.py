"""Ports that raise, leave, print, meddle with jax, or give back what no model gives.

Claim: the check ends with 0, 1 or 2 and says so itself; what is not a correct port never passes; stdout is the
report's alone. `os._exit`, and a port that never returns, are beyond a check in one process, and not tried.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from harness import embedded
from tests.campaign.forked import forked, goldens
from tests.campaign.goldens import CASE, slice_of
from tests.campaign.trials import BrokenClaimError, Tried

LONGEST = 20_000  # a port may print long lines of its own
PATIENCE = 120  # of one check on a machine that is busy; most of it is compiling
TEMPLATE = """
import os, sys, logging, threading, warnings
import jax, jax.numpy as jnp, numpy as np
from harness.run.decoder import Decoder

class Strange(BaseException):
    pass

class Unshowable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

class Awkward:
    shape, dtype = (1, 1, 1), "float32"
    def __array__(self, *_, **__):
        raise RuntimeError("no array")

def deep(n):
    return deep(n + 1) + 1

{at_import}

class Port:
    {attributes}

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def load(cls, checkpoint_dir, config, dtype, mesh):
        {in_load}
        return cls(Decoder.load(checkpoint_dir, config, dtype, mesh))

    def forward(self, input_ids, positions, mask, cache, tap):
        {in_forward}
        def own(name, value):
            {in_tap}
            return tap(name, value)
        logits, cache = self.inner.forward(input_ids, positions, mask, cache, own)
        {at_end}
        return {returned}
"""
ENDS = (
    "raise SystemExit",
    "raise SystemExit(0)",
    "raise SystemExit('x' * 100_000)",
    "sys.exit(1)",
    "raise KeyboardInterrupt",
    "raise GeneratorExit",
    "raise StopIteration",
    "raise Strange",
    "raise Unshowable",
    "raise MemoryError",
    "raise ValueError('x' * 1_000_000)",
    "raise ValueError('[/] [bold] {} %s \\x1b[31m \\x00')",
    "raise ExceptionGroup('many', [ValueError('x' * 1000)] * 1000)",
    "raise UnicodeDecodeError('utf-8', b'x', 0, 1, 'why')",
    "deep(0)",
    "jnp.zeros(3) @ jnp.zeros(4)",
    "np.zeros(10**15)",
    "assert False",
    "exec('(')",
    "warnings.warn('x'); raise Warning('x')",
)
HARMLESS = (
    "pass",
    "print('{' * 3)",
    "print('x' * 10_000, file=sys.stderr)",
    "os.write(1, b'not JSON')",
    "sys.stdout.write('\\x00\\x1b[2J')",
    "logging.getLogger().error('x')",
    "warnings.warn('x')",
    "warnings.simplefilter('error')",
    "sys.setrecursionlimit(3000)",
    "threading.Thread(target=lambda: None).start()",
    "threading.Thread(target=lambda: 1 / 0).start()",
    "os.environ['COLUMNS'] = '1'",
    "os.chdir('/')",
    "os.fork() or os._exit(0)",
    "sys.argv[:] = []",
    "np.seterr(all='raise')",
    "sys.stdout = None",
    "sys.stdout.close()",
)
CONFIGURES = (
    "jax.config.update('jax_default_matmul_precision', 'bfloat16')",
    "jax.config.update('jax_enable_x64', True)",
    "jax.config.update('jax_disable_jit', True)",
    "jax.config.update('jax_numpy_dtype_promotion', 'strict')",
    "jax.config.update('jax_debug_nans', True)",
    "jax.clear_caches()",
)
RETURNED = (
    "logits + 1, cache",
    "logits * jnp.nan, cache",
    "logits / 0, cache",
    "logits[:, :-1], cache",
    "logits[..., :-1], cache",
    "logits[None], cache",
    "logits.T, cache",
    "logits.astype(jnp.float16), cache",
    "logits.astype(jnp.int32), cache",
    "logits.astype(jnp.complex64), cache",
    "logits > 0, cache",
    "jnp.zeros((0,)), cache",
    "np.asarray(logits).tolist(), cache",
    "np.asarray(logits).astype(object), cache",
    "np.asarray(logits).astype('S8'), cache",
    "Awkward(), cache",
    "'x' * 10_000, cache",
    "None, None",
    "None",
    "()",
    "(logits,)",
    "(logits, cache, 1)",
    "{'logits': logits}",
    "iter([logits, cache])",
    "{'a'}",
    "10 ** 5000, cache",
    "type, cache",
    "jax.ShapeDtypeStruct((1, 1, 608), jnp.float32), cache",
)
TAPPED = (
    "value = value + 1",
    "value = value * jnp.nan",
    "value = value[..., :-1]",
    "value = value.astype(jnp.float16)",
    "value = None",
    "value = 'x'",
    "value = Awkward()",
    "name = name + 'x'",
    "name = None",
    "name = 'x' * 100_000",
    "name = '../' + name",
    "tap(name, value)",
    "return None",
    "return value[..., :-1]",
    "tap(name)",
    "tap(name, value, 1, 2)",
    "tap('x', jnp.zeros(10**7))",
    "tap(['a'], value)",
)
DECLARED = (
    "without = ('logits', 'embed')",
    "without = 'probs'",
    "without = (1, None)",
    "without = 10**5",
    "dtypes = {'logits': 'x'}",
    "dtypes = {'logits': None, 1: 2}",
    "dtypes = 'float32'",
    "cannot = ('prompt', 'decode', 'batch', 'offset', 'generation')",
    "cannot = ('x',)",
    "recorded_only = ('x' * 10_000,)",
    "recorded_only = {'probs': lambda: 1 / 0}",
    "positions_from_pads = ('up',)",
    "notes = ('[/]' * 100_000,)",
    "notes = 7",
    "lifts = 'yes'",
    "pads = None",
    "init_cache = 7",
    "init_cache = property(lambda self: sys.exit(0))",
    "forward_sequences = None",
    "forward_sequences = lambda self, sequences: 7",
    "without_weights = lambda self: sys.exit(0)",
    "__getattr__ = lambda self, name: sys.exit(0)",
    "__slots__ = ()",
)


@dataclass(frozen=True)
class Source:
    """The text of a port's module.

    Attributes:
        passes: whether it may pass; None where it is not said.
    """

    text: str
    passes: bool | None

    def __repr__(self) -> str:
        lines = [line for line in self.text.split("def deep")[1].splitlines() if line.strip() not in ("pass", "")]
        return "\n".join(lines)


@st.composite
def sources(draw: Any) -> Source:
    """A port with one thing that it should not do, and sometimes with a harmless one besides."""
    parts = dict.fromkeys(("at_import", "attributes", "in_load", "in_forward", "in_tap", "at_end"), "pass")
    parts["returned"] = "logits, cache"
    kind = draw(st.sampled_from(["ends", "returned", "tapped", "declared", "configures", "harmless"]))
    anywhere = st.sampled_from(["at_import", "in_load", "in_forward", "in_tap", "at_end"])
    passes: bool | None = None
    if kind == "ends":
        parts[draw(anywhere)] = draw(st.sampled_from(ENDS))
        passes = False
    elif kind == "returned":
        parts["returned"] = draw(st.sampled_from(RETURNED))
        passes = False
    elif kind == "tapped":
        parts["in_tap"] = draw(st.sampled_from(TAPPED))
    elif kind == "declared":
        parts["attributes"] = draw(st.sampled_from(DECLARED))
    elif kind == "configures":
        parts[draw(anywhere)] = draw(st.sampled_from(CONFIGURES))
    if kind == "harmless" or draw(st.integers(0, 3)) == 0:
        where = draw(anywhere)
        parts[where] = draw(st.sampled_from(HARMLESS)) if parts[where] == "pass" else parts[where]
    text = TEMPLATE
    for name, value in parts.items():  # not `format`: the values hold braces
        text = text.replace(f"{{{name}}}", value)
    return Source(text, passes)


class Ports:
    """A golden of one short case, and a folder for the port's module."""

    def __init__(self, folder: Path) -> None:
        self.trial = folder / "trial"
        self.golden = slice_of(embedded.golden(), folder / "slice.h5", CASE)
        # What one trial compiled is not compiled again by the next. JAX looks these up when it is imported.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
        import harness.run.check  # noqa: F401 - once, and not in every child

    def checked(self, source: Source) -> bool:
        """Claim: see above."""
        shutil.rmtree(self.trial, ignore_errors=True)
        self.trial.mkdir()
        (self.trial / "hostile_port.py").write_text(source.text)
        weights = embedded.directory() / "qwen2-tiny"
        words = ("--weights", weights, "--precision", "float32", "--mode", "both", "--json", "-")

        def check() -> int:
            os.chdir(self.trial)
            sys.path.insert(0, str(self.trial))
            return goldens("check", self.golden, "--port", "hostile_port:Port", *words)

        ended = forked(check, PATIENCE)
        if ended.code not in (0, 1, 2) or "this is a bug in goldens" in ended.said:
            raise BrokenClaimError(str(ended))
        if ended.code == 0 and source.passes is False:
            raise BrokenClaimError(f"it passes: {ended}")
        if ended.code in (0, 1) or ended.out:
            document(ended.out)
        if max(map(len, ended.said.splitlines()), default=0) > LONGEST:
            raise BrokenClaimError(f"a line of {max(map(len, ended.said.splitlines())):,} characters")
        return ended.code == 2


def document(text: str) -> None:
    """Claim: stdout is a report, and nothing else."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise BrokenClaimError(f"stdout is not JSON ({error}): {text[:200]!r}") from None
    if found.get("kind") != "check":
        raise BrokenClaimError(f"stdout is no report: {text[:200]!r}")


def claims(folder: Path) -> list[Tried]:
    """It needs jax."""
    ports = Ports(folder)
    return [
        Tried(
            "a hostile port is judged or refused, and does not pass", sources(), ports.checked, 0.2, PATIENCE + 9
        )
    ]
