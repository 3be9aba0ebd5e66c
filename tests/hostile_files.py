"""Small files that would keep a command for long, or fill memory or a disk, if it believed them.

HOSTILE is {name: maker}. A maker takes an empty folder and a size in bytes, writes a file of about that size, where the
size matters, and returns the arguments of `python -m src` that read it and a part of the line in which they must end.
"""

import io
import itertools
import os
import pickle
import struct
import zipfile

import h5py
import numpy as np
import torch

from tests.csd_files import write_csd
from tests.zips import make_zip, wrap_sizes

PRIME = (1 << 61) - 1  # Python's hash of an integer is its rest by this
SCALAR = b"cnumpy._core.multiarray\nscalar\n"
F8 = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8K\x00K\x01tR"


def of_pickle(fault, make):
    """A data file of the bytes that `make` gives for a size."""
    def write(folder, size):
        path = folder / "mine_data.pkl"
        path.write_bytes(b"\x80\x04" + make(size) + b".")
        return ["inspect", str(path)], fault
    return write


def long_key(size):
    """A tuple that is the key of a dict many times."""
    return b"(" + b"N" * (size // 2) + b"tq\x000}(" + b"h\x00N" * (size // 6) + b"u"


def colliding_keys(size):
    """Tuples of one hash: that of -1 is that of -2."""
    number = {number: b"J" + struct.pack("<i", number) for number in (-1, -2)}
    tuples = itertools.islice(itertools.product(number, repeat=16), size // 83)
    return b"}(" + b"".join(b"(" + b"".join(map(number.get, key)) + b"tN" for key in tuples) + b"u"


def colliding_places(size):
    """Places in the memo of one hash."""
    return b"N" + b"".join(b"p%d\n" % (i * PRIME) for i in range(1, size // 24))


def long_number(size):
    """A dict with a key of 5,000 digits, which Python does not print."""
    digits = (10 ** 5000).to_bytes(2077, "little")
    return b"}\x8b" + struct.pack("<i", len(digits)) + digits + b"Ns"


def forged_budget(size):
    """A scalar whose type is replaced by one that says it has less than no bytes, to make up for what comes next."""
    scalar = SCALAR + b"(" + F8 + b"C\x08" + bytes(8) + b"tR"
    return scalar + b"}(X\x08\x00\x00\x00itemsizeJ\x00\x00\x00\x80ub"


def of_csd(fault, make):
    """A computational sequence whose entry `make` writes into a group of an open HDF5 file, given the other file."""
    def write(folder, size):
        write_csd(folder / "other.csd", {"v": (np.ones((3, 2)), [[0, 1]] * 3)})
        path = folder / "text.csd"
        write_csd(path, {"v": (np.ones((3, 2)), [[0, 1]] * 3)})
        with h5py.File(path, "a") as file:
            del file["the sequence/data/v/features"]
            make(file["the sequence/data/v"], folder / "other.csd")
        (folder / "folds.json").write_text('{"train": ["v"], "valid": ["w"], "test": ["x"]}')
        files = [f"--{name}={path}" for name in ("text", "audio", "vision", "labels")]
        out = folder / "mine_data_noalign.pkl"
        return ["convert", *files, f"--folds={folder / 'folds.json'}", f"--out={out}"], fault
    return write


def linked(group, other):
    """Features in another file, by a link."""
    group["features"] = h5py.ExternalLink(other, "the sequence/data/v/features")


def external(group, other):
    """Features in another file of any kind, by their storage."""
    group.create_dataset("features", (3, 2), "f8", external=[(str(other), 0, 48)])


def virtual(group, other):
    """Features in another file, by a virtual data set."""
    layout = h5py.VirtualLayout((3, 2), "f8")
    layout[:] = h5py.VirtualSource(other, "the sequence/data/v/features", (3, 2))
    group.create_virtual_dataset("features", layout)


def sparse(group, other):
    """Features of which nothing was written."""
    group.create_dataset("features", (1 << 21, 300), "f8", chunks=(1 << 10, 300))


def compressed(group, other):
    """Features of zeros, which take a thousandth."""
    group.create_dataset("features", data=np.zeros((1 << 10, 300)), compression="gzip", compression_opts=9)


def inflating_checkpoint(folder, size):
    """A checkpoint whose zip is compressed, a thousandfold."""
    saved = io.BytesIO()
    torch.save({"weight": torch.zeros(size * 250)}, saved)
    packed = folder / "packed.pt"
    with zipfile.ZipFile(saved) as whole, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in whole.namelist():
            archive.writestr(name, whole.read(name))
    return ["train", "--dataset=demo", "--model=MulT", f"--results_dir={folder / 'results'}",
            f"--init_from={packed}"], "would unpack to"


def slow_checkpoint(folder, size):
    """A checkpoint with a long tuple as a key many times."""
    saved, packed = io.BytesIO(), folder / "packed.pt"
    torch.save({}, saved)
    with zipfile.ZipFile(saved) as whole, zipfile.ZipFile(packed, "w") as archive:
        for name in whole.namelist():
            slow = b"\x80\x02" + long_key(size) + b"."
            archive.writestr(name, slow if name.endswith("/data.pkl") else whole.read(name))
    return ["train", "--dataset=demo", "--model=MulT", f"--results_dir={folder / 'results'}",
            f"--init_from={packed}"], "a key that is not plain"


def growing_member(folder, size):
    """A zip whose member has far more bytes than it states."""
    archive = folder / "growing.zip"
    archive.write_bytes(wrap_sizes(make_zip({"mine_data_noalign.pkl": bytes(size * 1000)}), 1000))
    return ["download", "--dataset=mine", "--alignment=unaligned", f"--data_path={folder / 'data'}",
            f"--archive={archive}"], "it has more than the"


def of_log(fault, line):
    """A log with a line that `line` gives for a size."""
    def write(folder, size):
        path = folder / "log.txt"
        path.write_text(line(size) + "\n")
        return ["compare", str(path), str(path)], fault
    return write


def sparse_file(folder, size):
    """A data file of some bytes, and then holes to a thousand million."""
    path = folder / "mine_data.pkl"
    path.write_bytes(pickle.dumps({"train": 1}))
    os.truncate(path, 10**9)
    return ["inspect", str(path)], "the others are holes"


def pipe(*arguments, fault="pipe"):
    """A pipe that nobody writes into, as the file of a command."""
    def write(folder, size):
        path = folder / "mine_data.pkl"
        os.mkfifo(path)
        return [argument.format(pipe=path, folder=folder) for argument in arguments], fault
    return write


HOSTILE = {
    "pickle: a long tuple as a key many times": of_pickle("a key that is not plain", long_key),
    "pickle: keys of one hash": of_pickle("keys that were made to be slow", colliding_keys),
    "pickle: places of one hash in the memo": of_pickle("a place beyond the memo", colliding_places),
    "pickle: a key of 5,000 digits": of_pickle("a key that is not plain", long_number),
    "pickle: an overwritten itemsize": of_pickle("a state of something that has none", forged_budget),
    "pickle: empty dicts": of_pickle("makes far more than it holds",
                                     lambda size: b"(" + b"}" * max(size, 200_000) + b"l"),
    "pickle: holes": sparse_file,
    "HDF5: an external link": of_csd("a link to elsewhere", linked),
    "HDF5: external storage": of_csd("takes values from other files", external),
    "HDF5: a virtual data set": of_csd("takes values from other files", virtual),
    "HDF5: a data set of which nothing is stored": of_csd("of which 0 are stored", sparse),
    "HDF5: a data set that inflates": of_csd("are stored", compressed),
    "checkpoint: one that inflates": inflating_checkpoint,
    "checkpoint: a long tuple as a key many times": slow_checkpoint,
    "zip: a member larger than stated": growing_member,
    "log: a setting that never ends": of_log("no line of a finished epoch",
                                             lambda size: "# a = " + "  (" * max(size, 200_000)),
    "log: an epoch of 5,000 digits": of_log(
        "no line of a finished epoch",
        lambda size: f"Epoch {'9' * 5000} | Time 1.0000 sec | Valid Loss 1.0000 | Test Loss 1.0000"),
    "pipe as data": pipe("inspect", "{pipe}"),
    "pipe as data to train on": pipe("train", "--dataset=mine", "--aligned", "--data_path={folder}",
                                     fault="is missing"),
    "pipe as log": pipe("compare", "{pipe}", "{pipe}"),
    "pipe as zip": pipe("download", "--dataset=mosi", "--data_path={folder}/data", "--archive={pipe}"),
    "pipe as preset": pipe("train", "--dataset=demo", "--results_dir={folder}/results", "--preset={pipe}"),
    "pipe as protocol": pipe("protocol", "{pipe}"),
}
