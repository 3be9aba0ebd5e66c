"""What the MulT of 2019 needs on PyTorch 2.6 and newer. Every name stands for an older one that the code calls."""

import functools
import warnings
from unittest.mock import patch

import torch
from torch.optim import lr_scheduler
from torch.utils import data

# Deprecated, but still the way in which the weights are drawn on a GPU.
warnings.filterwarnings("ignore", message=r"torch\.set_default_tensor_type\(\) is deprecated")


class DataLoader(data.DataLoader):
    """A DataLoader that shuffles on the device where new tensors are made, which a CPU generator cannot."""

    def __init__(self, *arguments, **options):
        device = torch.empty(0).device
        if device.type == "cuda":
            options.setdefault("generator", torch.cuda.default_generators[device.index])
        super().__init__(*arguments, **options)


class ReduceLROnPlateau(lr_scheduler.ReduceLROnPlateau):
    """The scheduler with `verbose`, and the line that it then printed."""

    def __init__(self, *arguments, verbose=False, **options):
        super().__init__(*arguments, **options)
        self.announces = verbose

    def step(self, *arguments):
        before = [group["lr"] for group in self.optimizer.param_groups]
        super().step(*arguments)
        for i, (old, group) in enumerate(zip(before, self.optimizer.param_groups, strict=True)):
            if self.announces and group["lr"] != old:
                print(f"Epoch {self.last_epoch:5d}: reducing learning rate of group {i} to {group['lr']:.4e}.")


def of_own_files(function):
    """The function with a torch.load that reads whole objects: for files that this repository wrote itself."""
    @functools.wraps(function)
    def loading(*arguments, **options):
        with patch.object(torch, "load", functools.partial(torch.load, weights_only=False)):
            return function(*arguments, **options)
    return loading
