"""Goldens on disk: HDF5 (one file) and Zarr v3 (a directory or any fsspec URL), behind one interface.

    open_golden(path)                   -> Golden: manifest, inputs, taps, noise floors, all verified
    write_golden(path, arrays, manifest) -> the golden's id; atomic
    check_writable(path, overwrite)     -> refuses early what write_golden would refuse late

`goldens/README.md` is the specification of both layouts.
"""

from harness.store.location import check_writable
from harness.store.reader import Golden, Labelled, open_golden
from harness.store.writer import NewArray, write_golden

__all__ = ["Golden", "Labelled", "NewArray", "check_writable", "open_golden", "write_golden"]
