"""Small computational sequences (.csd) for tests."""

import json

import h5py
import numpy as np


def write_csd(path, entries, name="the sequence", metadata=()):
    """Write {id: (features, intervals)} as a computational sequence, with {key: JSON} of metadata."""
    with h5py.File(path, "w") as file:
        data = file.create_group(f"{name}/data")
        for entry, (features, intervals) in entries.items():
            data[f"{entry}/features"], data[f"{entry}/intervals"] = features, np.asarray(intervals, dtype=float)
        for key, value in {"root name": name, **dict(metadata)}.items():
            file[f"{name}/metadata/{key}"] = [json.dumps(value)]
