"""A golden as labelled arrays, for whoever wants to look at numbers. See `harness.open`.

    golden = harness.open("a.h5")
    golden["digits"].q_rope                                    # [layer, batch, position, head, head_dim]
    golden["digits"].noise["float32", "forward"].sel(tap="layers.3.q_rope", statistic="rms")

Every array is read when it is asked for, verified against its sha256, and comes as an `xarray.DataArray`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from harness import layout
from harness.errors import GoldenError
from harness.golden import NOISE_KINDS, CaseEntry, Manifest
from harness.store import Golden, open_golden

if TYPE_CHECKING:
    from xarray import DataArray

NEAR = 5
Key = tuple[str, str]


class UnknownNameError(GoldenError, AttributeError):
    """A golden holds nothing of this name."""


class LabelledGolden(Mapping[str, "LabelledCase"]):
    """Cases by name. Use it as a context manager, or leave closing to the interpreter."""

    def __init__(self, path: str | Path) -> None:
        self._golden: Golden = open_golden(path)
        self._cases = {case.name: case for case in self._golden.manifest.cases}

    @property
    def manifest(self) -> Manifest:
        return self._golden.manifest

    @property
    def id(self) -> str:
        return self._golden.id

    def __getitem__(self, name: str) -> LabelledCase:
        if name not in self._cases:
            raise _unknown("case", name, self._golden.path, self._cases)
        return LabelledCase(self._golden, self._cases[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._cases)

    def __len__(self) -> int:
        return len(self._cases)

    def __enter__(self) -> LabelledGolden:
        return self

    def __exit__(self, *_: object) -> None:
        self._golden.close()

    def __repr__(self) -> str:
        return f"<golden {self.id[:12]} of {self.manifest.model.id}: {', '.join(self._cases)}>"


class LabelledCase:
    """What one case holds: its inputs, its taps over all layers, one tap of one layer, noise, what was generated.

    Attributes:
        noise: by precision and kind, [tap, statistic, batch, position]; of taps, statistics as labels.
        generated: by precision and `tokens` or `margins`, [batch, step]; empty where nothing was generated.
    """

    def __init__(self, golden: Golden, entry: CaseEntry) -> None:
        self._golden, self.entry = golden, entry
        self._paths = {name: layout.input_path(entry.name, name) for name in layout.INPUTS}
        self._paths |= golden.stacks(entry.name)
        if entry.top:
            self._paths |= {f"top_{name}": layout.top_path(entry.name, name) for name in layout.TOP}
        kinds = product(golden.manifest.precisions, NOISE_KINDS)
        noise = {key: layout.noise_path(entry.name, *key) for key in kinds}
        self.noise = ByKey("noise floor", noise, self._labelled)
        kinds = product(layout.GENERATED_PRECISIONS if entry.generated else (), layout.GENERATED)
        generated = {key: layout.generated_path(entry.name, *key) for key in kinds}
        self.generated = ByKey("continuation", generated, self._labelled)

    def __getitem__(self, name: str) -> DataArray:
        """An array by its tap's kind, `q_rope`, or one layer of it by the whole name, `layers.3.q_rope`."""
        if name in self._paths:
            return self._labelled(self._paths[name])
        if name in self.entry.taps:
            return self._labelled(*self._golden.place(self.entry.name, name))
        raise _unknown("tap", name, f"{self._golden.path}: {self.entry.name}", [*self._paths, *self.entry.taps])

    def __getattr__(self, name: str) -> DataArray:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name for name in self._paths if name.isidentifier())]

    def __repr__(self) -> str:
        return f"<case {self.entry.name} {self.entry.shape}: {', '.join(self._paths)}>"

    def _labelled(self, path: str, index: int | None = None) -> DataArray:
        try:
            from xarray import DataArray
        except ImportError:
            problem, hint = (
                "labelled arrays need a package that is not installed",
                "pip install 'goldens[labelled]'",
            )
            raise GoldenError(problem, "harness.open", "xarray", hint=hint) from None
        values, dims, labels = self._golden.labelled(path, index)
        coordinates = {dim: (dim, list(names)) for dim, names in labels.items()}
        return DataArray(values, coordinates, dims, path.rpartition("/")[2], {"golden": self._golden.id})


class ByKey(Mapping[Key, "DataArray"]):
    """Arrays by two words: `noise["float32", "forward"]`."""

    def __init__(self, noun: str, paths: Mapping[Key, str], read: Callable[[str], DataArray]) -> None:
        self._noun, self._paths, self._read = noun, paths, read

    def __getitem__(self, key: Key) -> DataArray:
        if key not in self._paths:
            known = {", ".join(parts): parts for parts in self._paths}
            asked = ", ".join(key) if isinstance(key, tuple) else str(key)
            raise _unknown(self._noun, asked, "precision, and kind", known)
        return self._read(self._paths[key])

    def __iter__(self) -> Iterator[Key]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def _unknown(noun: str, name: str, where: str, known: Iterable[str]) -> UnknownNameError:
    """The refusal of a name, with those that are near."""
    names = list(known)
    near = get_close_matches(name, names, NEAR, 0.5) or names[:NEAR]
    shown = f"one of {len(names)} names" if names else "none: nothing of this kind was recorded"
    hint = f"did you mean {', '.join(near)}?" if names else "`goldens show GOLDEN` lists what it holds"
    return UnknownNameError(f"the golden has no {noun} of this name", where, shown, name, hint=hint)
