"""Initial weights out of a file: of the original MulT, which pickles whole modules, or any state dict.

Unpickling a module runs what the file names. Here every class and function in it, but the few that describe tensors,
becomes an inert record; the tensors are then found by walking the records as torch walks modules. Both of torch's
formats are read: the zip archives of today, and what torch wrote before 1.6, when the original was new.
"""

import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from src.errors import UserError, printable

BOOKKEEPING = ("version", "_float_tensor")  # buffers of the original that hold nothing learned
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}
SHOWN = 3  # names in a message


class Inert:
    """Stands for an object of any class: it keeps its state, and does nothing."""

    state = None

    def __init__(self, *arguments, **options):
        pass

    def __setstate__(self, state):
        self.state = state

    def append(self, *ignored):
        """Pickles fill what they made as a list or dict; there is nothing to fill here."""

    extend = __setitem__ = append


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: in the storage of a key, from an offset on, in elements of a type."""

    dtype: torch.dtype
    key: str
    offset: int
    size: tuple
    stride: tuple


def stored_tensor(storage, offset, size, stride, *ignored):
    """Stands for torch's _rebuild_tensor and _rebuild_tensor_v2."""
    dtype, key = storage
    return StoredTensor(dtype, key, offset, size, stride)


def stored_parameter(tensor, *ignored):
    """Stands for torch's _rebuild_parameter."""
    return tensor


BUILDERS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): stored_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): stored_tensor,
    ("torch._utils", "_rebuild_parameter"): stored_parameter,
}


class InertUnpickler(pickle.Unpickler):
    """An unpickler to which all names but those in BUILDERS and DTYPES are Inert. It notes each storage's dtype."""

    def __init__(self, file):
        super().__init__(file, encoding="latin1")
        self.storages = {}

    def find_class(self, module, name):
        if module in ("torch", "torch.cuda") and name in DTYPES:
            return DTYPES[name]
        return BUILDERS.get((module, name), Inert)

    def persistent_load(self, identity):
        kind, content, key, *_ = identity
        if kind == "module":  # a class, with its source
            return content
        self.storages[key] = content
        return content, key


def load_state(path):
    """The {name: tensor} of a model's file; UserError where it holds none or is damaged. Runs nothing of the file."""
    if not Path(path).is_file():
        raise UserError(f"--init_from: {path} is missing; name a checkpoint of torch")
    try:
        content, read_storage = read_zip(path) if zipfile.is_zipfile(path) else read_legacy(path)
        stored = tensors_of(content)
        if stored and all(name.startswith("module.") for name in stored):  # saved from within DataParallel
            stored = {name.removeprefix("module."): tensor for name, tensor in stored.items()}
        return {
            name: build(tensor, read_storage) for name, tensor in stored.items()
            if name.split(".")[-1] not in BOOKKEEPING
        }
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise UserError(f"--init_from: {path} is damaged or no checkpoint of torch: {printable(error)}") from error


def read_zip(path):
    """The records of a zip archive, and a function that gives the bytes of a storage."""
    archive = zipfile.ZipFile(path)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise ValueError("it is compressed, which torch never does")
    (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
    folder = pickled.removesuffix("data.pkl")
    with archive.open(pickled) as file:
        return InertUnpickler(file).load(), lambda key: archive.read(f"{folder}data/{key}")


def read_legacy(path):
    """The same of a file in the format before torch 1.6: five pickles, then each storage with its length before it."""
    with open(path, "rb") as file:
        if InertUnpickler(file).load() != LEGACY_MAGIC:
            raise ValueError("it does not begin as a file of torch does")
        for _ in ("protocol", "machine"):
            InertUnpickler(file).load()
        unpickler, storages = InertUnpickler(file), {}
        content, keys = unpickler.load(), InertUnpickler(file).load()
        for key in keys:
            elements = int.from_bytes(file.read(8), "little")
            storages[key] = file.read(elements * unpickler.storages[key].itemsize)
    return content, storages.__getitem__


def tensors_of(content):
    """{name: StoredTensor} of a module, of a state dict, or of a dict with either as its "model"."""
    if isinstance(content, Inert):
        return dict(tensors_of_module(content))
    if isinstance(content, dict) and isinstance(content.get("model"), (dict, Inert)):
        return tensors_of(content["model"])
    if isinstance(content, dict) and content and all(isinstance(value, StoredTensor) for value in content.values()):
        return content
    raise ValueError("it holds neither a model nor a state dict")


def tensors_of_module(module, prefix=""):
    """(name, StoredTensor) of a module and those in it, as its state_dict names them."""
    for group in ("_parameters", "_buffers"):
        for name, value in module.state[group].items():
            if isinstance(value, StoredTensor):
                yield prefix + name, value
    for name, child in module.state["_modules"].items():
        if isinstance(child, Inert):
            yield from tensors_of_module(child, f"{prefix}{name}.")


def build(stored, read_storage):
    """The tensor of a StoredTensor."""
    flat = torch.frombuffer(bytearray(read_storage(stored.key)), dtype=stored.dtype)
    return flat.as_strided(stored.size, stored.stride, stored.offset).clone()


def initialise(model, path):
    """Give a model the weights of a file; UserError, in one line, where they are another model's."""
    state, own = load_state(path), model.state_dict()
    faults = [
        f"{words} {', '.join(islice(map(printable, names), SHOWN))}" + " and others" * (len(names) > SHOWN)
        for words, names in (
            ("it lacks", [name for name in own if name not in state]),
            ("it has besides", [name for name in state if name not in own]),
            ("of another shape are", [
                f"{name} {tuple(state[name].shape)}, here {tuple(tensor.shape)}" for name, tensor in own.items()
                if name in state and state[name].shape != tensor.shape
            ]),
        ) if names
    ]
    if faults:
        raise UserError(
            f"--init_from: {path} does not fit: {'; '.join(faults)}. Give the model and the architecture it was "
            "trained with (of the original MulT, --preset stock has the defaults)"
        )
    model.load_state_dict(state)
