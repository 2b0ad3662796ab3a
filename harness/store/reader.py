"""Reading a golden: the manifest at once, an array when it is asked for, each verified as it is read."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from harness import layout
from harness.along import Case
from harness.errors import GoldenError
from harness.golden import LAYER, NOISE_KINDS, ArrayEntry, CaseEntry, identity
from harness.selecting import LEVELS, at_level
from harness.store.abc import MANIFEST, MANIFEST_DIM, Piece, Reader, damaged, reading
from harness.store.contents import checked
from harness.store.location import open_reader


def open_golden(path: str | Path) -> Golden:
    """Open a golden: an HDF5 file, a Zarr directory, or a Zarr URL. Reads the manifest and no array.

    Raises:
        GoldenError: missing, not a golden, of a newer format version, damaged, or inconsistent.
    """
    reader = open_reader(path)
    try:
        return Golden(str(path), reader)
    except BaseException:
        reader.close()
        raise


# An array, the names of its dimensions, and the labels of those that have some.
Labelled = tuple[np.ndarray, list[str], dict[str, layout.Labels]]


class Golden:
    """A golden open for reading; use it as a context manager.

    Attributes:
        path: as it was given.
        id: the sha256 of the manifest, the golden's identity.
        manifest: everything but the arrays.
    """

    def __init__(self, path: str, reader: Reader) -> None:
        encoded = reader.manifest()
        self.path = path
        self.id = identity(encoded)
        self._manifest_size = len(encoded)
        self._reader = reader
        self._cases: dict[str, Case] = {}
        self._lock = threading.RLock()  # a check reads ahead in another thread
        with reading(path):
            self.manifest, self._layout = checked(encoded, self.id, path)

    def __enter__(self) -> Golden:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file. Closing twice is allowed."""
        self._reader.close()

    @property
    def nbytes(self) -> int:
        """The size on disk; of a URL, the size of manifest and arrays."""
        with reading(self.path):
            on_disk = self._reader.nbytes
        if on_disk is not None:
            return on_disk
        return self._manifest_size + sum(
            math.prod(entry.shape) * np.dtype(entry.dtype).itemsize for entry in self.manifest.arrays.values()
        )

    def case(self, name: str) -> Case:
        """What the model saw: ids and positions int32, mask bool, all [batch, position].

        Raises:
            GoldenError: there is no such case, or its arrays are damaged.
        """
        if name in self._cases:  # small, and asked for again and again
            return self._cases[name]
        entry = self.manifest.case(name)
        paths = [layout.input_path(name, field) for field in layout.INPUTS]
        with self._lock:
            pieces = self._reader.ahead((path, self.manifest.arrays[path], 0) for path in paths)
            input_ids, positions, mask = (self._array(path) for path, _, _ in pieces)
        self._cases[name] = Case(name, input_ids, positions, mask, entry.calls)
        return self._cases[name]

    def tap(self, case: str, tap: str) -> np.ndarray:
        """The truth of a tap, in the manifest's `truth_dtype`, dimensions as in `stored_dims`. Read-only.

        Raises:
            GoldenError: there is no such case or tap, this case did not record it, or it is damaged.
        """
        entry = self.manifest.case(case)
        if tap not in entry.taps:
            raise self._not_recorded(case, tap)
        # A check asks for the taps of a case in their order, so those that follow may come along.
        following = (self._piece(entry, name) for name in entry.taps[entry.taps.index(tap) :])
        with self._lock:
            next(self._reader.ahead(following))
            return self._array(*self._layout.place(entry, tap), called=tap)

    def shape(self, case: str, tap: str) -> tuple[int, ...]:
        """The shape of a recorded tap, of which nothing is read."""
        return self._piece(self.manifest.case(case), tap)[1].slab

    def stacks(self, case: str) -> dict[str, str]:
        """The paths of the arrays that hold a case's taps, by the name of each: `q_rope`, `logits`."""
        entry = self.manifest.case(case)
        return {stack.name: layout.stack_path(case, stack.name) for stack in self._layout.stacks(entry)}

    def place(self, case: str, tap: str) -> tuple[str, int | None]:
        """The array in which a recorded tap lies, and its place along the layers; None outside the layers."""
        return self._layout.place(self.manifest.case(case), tap)

    def labelled(self, path: str, index: int | None = None) -> Labelled:
        """An array, or one layer of a stack. Dimensions are called `layer`, `head`, whatever they are on disk.

        Raises:
            GoldenError: it is damaged.
        """
        form = self.manifest.arrays[path]
        dims, by_path = list(form.dims), self._layout.labels
        labels = {dim: by_path[where] for dim in dims if (where := layout.label_path(path, dim)) in by_path}
        if form.stacked:
            layers = {LAYER: labels.pop(dims.pop(0))}
            if index is None:
                dims, labels = [LAYER, *dims], layers | labels
        return self._array(path, index), [dim.partition(".")[0] for dim in dims], labels

    def noise(self, case: str, precision: str, kind: str) -> np.ndarray:
        """A case's noise floors: float32 [tap, statistic, batch, position or kept], taps as in `CaseEntry.taps`,
        statistics as in `Manifest.statistics`.

        Raises:
            GoldenError: there is no such case, precision or kind, or the array is damaged.
        """
        self.manifest.case(case)
        recorded = [(p, k) for p in self.manifest.precisions for k in NOISE_KINDS]
        if (precision, kind) not in recorded:
            problem = "the golden has no noise floor of this precision and kind"
            expected = ", ".join(f"{p} {k}" for p, k in recorded) or "none was recorded"
            hint = "check at a precision that was recorded; `goldens show GOLDEN` lists them"
            raise GoldenError(problem, f"{self.path}: {case}", expected, f"{precision} {kind}", hint=hint)
        # Limits are of all cases together (harness/calibration.md): who asks for one goes on to the next.
        names = [entry.name for entry in self.manifest.cases]
        paths = (layout.noise_path(name, precision, kind) for name in names[names.index(case) :])
        with self._lock:
            path, _, _ = next(self._reader.ahead((path, self.manifest.arrays[path], 0) for path in paths))
            return self._array(path)

    def top(self, case: str) -> dict[str, np.ndarray]:
        """What there is beside the largest logits of a case that has them alone, by name (`harness.layout.TOP`).

        Raises:
            GoldenError: an array is damaged, or is not what it says.
        """
        paths = [layout.top_path(case, name) for name in layout.TOP]
        pieces = self._reader.ahead((path, self.manifest.arrays[path], 0) for path in paths)
        top = dict(zip(layout.TOP, (self._array(path) for path, _, _ in pieces), strict=True))
        ids = top["ids"]
        [vocabulary] = {size for name, size in self.manifest.sizes.items() if name == "vocab"}
        sound = all(np.isfinite(values).all() for values in top.values())
        if not sound or ids.min() < 0 or ids.max() >= vocabulary or top["outside"].min() < 0:
            problem, where = "what a golden says of its largest logits is impossible", paths[0].rpartition("/")[0]
            expected = f"ids from 0 to {vocabulary - 1}, finite figures, no probability below 0"
            raise damaged(problem, f"{self.path}: {where}", expected)
        return top

    def generated(self, case: str, precision: str, name: str) -> np.ndarray:
        """What the reference generated: `tokens` int32 or `margins` float64, [batch, step].

        Raises:
            GoldenError: nothing was generated in this case, or at this precision, or the array is damaged.
        """
        path = layout.generated_path(case, precision, name)
        if path not in self.manifest.arrays:
            generating = [entry.name for entry in self.manifest.cases if entry.generated]
            problem, hint = "the golden holds no such continuation", "`goldens show GOLDEN` lists its cases"
            expected = f"{', '.join(generating) or 'no case'}, at {' or '.join(layout.GENERATED_PRECISIONS)}"
            raise GoldenError(problem, f"{self.path}: {path}", expected, f"{case} at {precision}", hint=hint)
        return self._array(path)

    def verify(self, progress: Callable[[str], None] | None = None) -> int:
        """Read everything: every array against its sha256 and its form, and nothing else on disk.

        Args:
            progress: called with the path of each array before it is read.

        Returns:
            The number of arrays verified.

        Raises:
            GoldenError: the first thing that is wrong.
        """
        pieces = (
            (path, entry, slab) for path, entry in self.manifest.arrays.items() for slab in range(entry.slabs)
        )
        for path, entry, slab in self._reader.ahead(pieces):
            if progress is not None and slab == 0:
                progress(path)
            self._reader.array(path, entry, slab)
        itself = ArrayEntry((self._manifest_size,), "uint8", (MANIFEST_DIM,), (self.id,))
        labels = self._layout.labels
        with reading(self.path):
            if not self._reader.is_whole():
                problem = "the file is not as it was written: it does not have the sha256 at its end"
                found = "every array is whole; the metadata around them, or the end of the file, is not"
                raise damaged(problem, self.path, found=found)
            for path, entry in [(MANIFEST, itself), *self.manifest.arrays.items()]:
                self._reader.check_structure(path, entry, labels)
            self._reader.check_nothing_else(self.manifest.arrays, labels)
        return len(self.manifest.arrays)

    def _piece(self, case: CaseEntry, tap: str) -> Piece:
        path, slab = self._layout.place(case, tap)
        return path, self.manifest.arrays[path], slab or 0

    def _array(self, path: str, index: int | None = None, called: str = "") -> np.ndarray:
        return self._reader.array(path, self.manifest.arrays[path], index, called)

    def _not_recorded(self, case: str, tap: str) -> GoldenError:
        known, where = {t.name: t for t in self.manifest.taps}, f"{self.path}: {case}"
        if tap not in known:
            expected = f"one of {len(known)} names, {', '.join(list(known)[:3])} and so on"
            hint = "names are matched exactly; the grammar is in harness/taps.py"
            return GoldenError("the golden has no tap of this name", where, expected, tap, hint=hint)
        needed = next(level for level in LEVELS if at_level([known[tap]], level))
        level = self.manifest.case(case).level
        if LEVELS.index(level) >= LEVELS.index(needed):
            problem = "this case did not record that tap: what was selected leaves it out"
            expected = f"one of its {len(self.manifest.case(case).taps)} taps"
            found = f"{tap}, recorded with {' '.join(self.manifest.selection.words) or 'no cache in this case'}"
            hint = "record it again with other --taps or --layers, or ask for a tap it has"
            return GoldenError(problem, where, expected, found, hint=hint)
        problem = f"this case did not record that tap: it was recorded at level {level!r}"
        hint = f"record it again with `goldens record --level {needed}`, or ask for a tap it has"
        expected = f"level {needed!r}, at which {tap} is recorded"
        return GoldenError(problem, where, expected, f"level {level!r}", hint=hint)
