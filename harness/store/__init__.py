"""Goldens on disk: HDF5 (one file) and Zarr v3 (a directory or any fsspec URL), behind one interface.

    open_golden(path)                    -> Golden: manifest, inputs, taps, noise floors, all verified

and in `harness.store.writer`, which whoever reads does not import:

    write_golden(path, arrays, manifest) -> the golden's id; atomic
    check_writable(path, overwrite)      -> refuses early what write_golden would refuse late

`goldens/README.md` is the specification of both layouts.
"""

from harness.store.reader import Golden, open_golden

__all__ = ["Golden", "open_golden"]
