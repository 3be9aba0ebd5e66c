"""Classes and functions that the MulT of 2019 calls, as they work on PyTorch 2.6 and newer."""

import functools
import warnings
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch.optim import lr_scheduler
from torch.utils import data

# The original still uses it to draw the weights on a GPU.
warnings.filterwarnings("ignore", message=r"torch\.set_default_tensor_type\(\) is deprecated")


class DataLoader(data.DataLoader):
    """A DataLoader that shuffles on the device where new tensors are made. A generator on the CPU cannot do that."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        device = torch.empty(0).device
        if device.type == "cuda":
            options.setdefault("generator", torch.cuda.default_generators[device.index])
        super().__init__(*arguments, **options)


class ReduceLROnPlateau(lr_scheduler.ReduceLROnPlateau):
    """The scheduler with the old option `verbose`, which prints a line when the learning rate falls."""

    def __init__(self, *arguments: Any, verbose: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.announces = verbose

    def step(self, *arguments: Any) -> None:
        before = [group["lr"] for group in self.optimizer.param_groups]
        super().step(*arguments)
        for i, (old, group) in enumerate(zip(before, self.optimizer.param_groups, strict=True)):
            if self.announces and group["lr"] != old:
                print(f"Epoch {self.last_epoch:5d}: reducing learning rate of group {i} to {group['lr']:.4e}.")


def of_own_files(function: Callable) -> Callable:
    """The function with a torch.load that reads whole objects. It is for files that the original itself wrote."""
    @functools.wraps(function)
    def loading(*arguments: Any, **options: Any) -> Any:
        with patch.object(torch, "load", functools.partial(torch.load, weights_only=False)):
            return function(*arguments, **options)
    return loading
