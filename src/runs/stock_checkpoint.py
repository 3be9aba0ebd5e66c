"""Initial weights from a file: of the original MulT, which pickles whole modules, or any state dict.

Unpickling a module runs code that the file names. Here torch reads the file with an unpickler in which every class and
function, but those that rebuild tensors, becomes an UnknownObject. The tensors are then found by walking these objects
as torch walks modules. torch's weights_only cannot do it: it refuses a file that names other classes.
"""

import pickle
import sys
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from src.data.safe_pickle import check_cost
from src.errors import UserError, printable
from src.files import check_zip, open_file
from src.runs.run_folder import check_content

BOOKKEEPING = ("version", "_float_tensor")  # buffers of the original that hold nothing learned
INSIDE = ("model", "state_dict", "model_state_dict")  # where a checkpoint has its model
WRAPPERS = ("module.", "_orig_mod.", "model.", "Model.")  # DataParallel, torch.compile, Lightning, MMSA
OLD_PICKLES = 5  # of torch before 1.6: a number, a version, the system, the model, and the names of its storages
SHOWN = 3  # names in a message


class UnknownObject:
    """Stands for an object of any class: it keeps its state, and does nothing."""

    state: Any = None
    dump_patches = False  # torch asks this of the class of a module

    def __init__(self, *arguments: Any, **options: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, *ignored: Any) -> None:
        """Ignore an entry: pickles fill lists and dicts after they made them."""

    extend = __setitem__ = append


KNOWN = {
    ("collections", "OrderedDict"): OrderedDict,
    **{("torch._utils", name): getattr(torch._utils, name)
       for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")},
}


class Unpickler(pickle.Unpickler):
    """An unpickler for which all names but those in KNOWN are an UnknownObject. torch extends it by its storages."""

    def find_class(self, module: str, name: str) -> Any:
        return KNOWN.get((module, name), UnknownObject)


def load(file: Any, **options: Any) -> Any:
    """The content of a pickle. torch takes this module for pickle's, of which it wants this function."""
    return Unpickler(file, **options).load()


def load_state(path: str | Path) -> dict[str, Tensor]:
    """The {name: tensor} of a model's file; no code in it is run. UserError where it holds none or is damaged."""
    if not Path(path).is_file():
        raise UserError(f"--init_from: {path} is missing; name a checkpoint of torch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch misses the source code of the classes
            check_archive(path)
            content = torch.load(path, map_location="cpu", weights_only=False,
                                 pickle_module=sys.modules[__name__])
        state = tensors_of(content)
    except Exception as error:  # a damaged pickle can fail in any way
        raise UserError(f"--init_from: {path} is damaged or no checkpoint of torch: {printable(error)}") from error
    while state and (prefix := next(iter(state)).split(".")[0] + ".") in WRAPPERS and all(
            name.startswith(prefix) for name in state):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in state.items() if name.split(".")[-1] not in BOOKKEEPING}


def check_archive(path: str | Path) -> None:
    """ValueError for an archive that torch.save does not write: a compressed one, TorchScript, or a tar file."""
    if tarfile.is_tarfile(path):
        raise ValueError("it is a tar file, as torch wrote before 0.2")
    if not zipfile.is_zipfile(path):
        with open_file(path) as file:
            check_cost(file, OLD_PICKLES)
        return
    check_zip(path, most=1)
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("it is compressed, which torch never does")
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise ValueError("it is TorchScript")
        check_content(archive)


def tensors_of(content: Any) -> dict[str, Tensor]:
    """{name: tensor} of a module, of a state dict, or of a dict with either by a name of INSIDE."""
    if isinstance(content, UnknownObject):
        return dict(tensors_of_module(content))
    for name in INSIDE if isinstance(content, dict) else ():
        if isinstance(content.get(name), (dict, UnknownObject)):
            return tensors_of(content[name])
    if isinstance(content, dict) and content and all(isinstance(value, Tensor) for value in content.values()):
        return content
    raise ValueError("it holds neither a model nor a state dict")


def tensors_of_module(module: UnknownObject, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of a module and those in it, as its state_dict names them."""
    for group in ("_parameters", "_buffers"):
        for name, value in module.state[group].items():
            if isinstance(value, Tensor):
                yield prefix + name, value.detach()
    for name, child in module.state["_modules"].items():
        if isinstance(child, UnknownObject):
            yield from tensors_of_module(child, f"{prefix}{name}.")


def initialise(model: nn.Module, path: str | Path) -> None:
    """Give a model the weights of a file; UserError, in one line, where they are another model's."""
    state, own = load_state(path), model.state_dict()
    reshaped = (name for name in own if name in state and state[name].shape != own[name].shape)
    faults = {
        "it lacks": [name for name in own if name not in state],
        "it has besides": [name for name in state if name not in own],
        "of another shape are": [f"{name} {tuple(state[name].shape)}, here {tuple(own[name].shape)}"
                                 for name in reshaped],
    }
    lines = [f"{words} {', '.join(islice(map(printable, names), SHOWN))}" + " and others" * (len(names) > SHOWN)
             for words, names in faults.items() if names]
    if lines:
        raise UserError(
            f"--init_from: {path} does not fit: {'; '.join(lines)}. Give the model and the architecture it was "
            "trained with (of the original MulT, --preset stock has the defaults)"
        )
    model.load_state_dict(state)
