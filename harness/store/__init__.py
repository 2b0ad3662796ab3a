"""Goldens on disk: HDF5 (one file) and Zarr v3 (a directory or any fsspec URL), behind one interface."""
