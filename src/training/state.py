"""The state of training: all that changes while a model is trained, to be saved and resumed from."""

import math
from dataclasses import asdict, dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from src.errors import UserError

SCHEDULER_FACTOR = 0.1
KINDS = {  # of the values of a saved state
    "model": dict, "optimizer": dict, "scheduler": dict, "random": Tensor, "random_gpu": Tensor | None,
    "order": Tensor, "epochs": int, "part": dict, "selected": dict | None, "best_on_test": dict | None,
}


@dataclass(frozen=True)
class Evaluation:
    """A model on a split: the mean loss, the predictions (N, output_dim) on the CPU, and the metrics by name."""

    loss: float
    predictions: Tensor
    metrics: dict[str, float]


@dataclass(frozen=True)
class Epoch:
    """A finished epoch, from 1, with its model's Evaluations; `test` is None where the test split is not loaded."""

    number: int
    valid: Evaluation
    test: Evaluation | None = None
    train_loss: float = math.nan  # mean over samples
    lr: float = math.nan
    seconds: float = math.nan


@dataclass
class PartOfEpoch:
    """The batches of an epoch that are done."""

    batches: int = 0
    loss_sum: float = 0.0  # over samples
    seconds: float = 0.0
    last_loss: float | None = None  # of a batch, in this epoch or the one before


def make_optimizer(model: nn.Module, optim: str, lr: float) -> torch.optim.Optimizer:
    """The torch optimizer of that name for the trainable parameters of a model, which it updates in one pass."""
    kind = getattr(torch.optim, optim)
    return kind([as_one_vector(model)], lr=lr, **({"fused": True} if "fused" in signature(kind).parameters else {}))


def as_one_vector(model: nn.Module) -> nn.Parameter:
    """Move the trainable parameters of a model into one vector, of which they become parts, and so their gradients.

    Hundreds of small tensors are then clipped, updated and zeroed as one. Gradients have to be zeroed, not dropped.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    vector = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
    vector.grad = torch.zeros_like(vector)
    sizes = [p.numel() for p in parameters]
    for p, values, gradient in zip(parameters, vector.data.split(sizes), vector.grad.split(sizes), strict=True):
        p.data, p.grad = values.view(p.shape), gradient.view(p.shape)
    return vector


def add_gradients(loss: Tensor, model: nn.Module) -> None:
    """Add the gradients of a loss to those of the parameters, all in one operation, where `backward` has hundreds."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True)
    own, added = zip(*((p.grad, gradient) for p, gradient in gradients if gradient is not None), strict=True)
    torch._foreach_add_(own, added)


class TrainingState:
    """All that changes while a model is trained.

    Training that resumes from `saved` is, on a CPU, the same to the last bit as training that was never interrupted,
    also in the middle of an epoch: nothing else changes, and no other random generators are drawn from.
    """

    def __init__(self, model: nn.Module, *, optim: str, lr: float, when: int, seed: int,
                 device: torch.device | str = "cpu"):
        self.model, self.device, self.seed = model, torch.device(device), seed
        self.optimizer = make_optimizer(model, optim, lr)
        self.scheduler = ReduceLROnPlateau(self.optimizer, patience=when, factor=SCHEDULER_FACTOR)
        self.order = torch.Generator().manual_seed(seed)
        self.epochs = 0  # finished ones
        self.selected: Epoch | None = None  # that of the lowest validation loss: the result
        self.best_on_test: Epoch | None = None  # that of the lowest test loss: not a result
        self.start_epoch(PartOfEpoch())

    def start_epoch(self, part: PartOfEpoch) -> None:
        """Make the order of the data, as it is now, that of an epoch of which a part may be done."""
        self.part = part
        self._order_of_epoch = self.order.get_state()

    @property
    def trained(self) -> list[Tensor]:
        """The tensors that the optimizer updates."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.optimizer.param_groups[0]["lr"]

    @property
    def epochs_since_best(self) -> int:
        """How many epochs have ended since that of the lowest validation loss."""
        return self.epochs - (self.selected.number if self.selected else 0)

    @property
    def is_best(self) -> bool:
        """Whether the model is now that of the epoch with the lowest validation loss."""
        return self.epochs > 0 and self.epochs_since_best == 0 and not self.part.batches

    def finish(self, epoch: Epoch) -> None:
        self.scheduler.step(epoch.valid.loss)
        self.epochs = epoch.number
        if self.selected is None or epoch.valid.loss < self.selected.valid.loss:
            self.selected = epoch
        if epoch.test and (self.best_on_test is None or self.best_on_test.test is None
                           or epoch.test.loss < self.best_on_test.test.loss):
            self.best_on_test = epoch
        self.start_epoch(PartOfEpoch(last_loss=self.part.last_loss))

    def saved(self) -> dict[str, Any]:
        """The state as tensors and plain containers."""
        on_gpu = self.device.type == "cuda"
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "random": torch.get_rng_state(),
            "random_gpu": torch.cuda.get_rng_state(self.device) if on_gpu else None,
            "order": self._order_of_epoch,
            "epochs": self.epochs,
            "part": asdict(self.part),
            "selected": self.selected and asdict(self.selected),
            "best_on_test": self.best_on_test and asdict(self.best_on_test),
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Resume from what `saved` returned; UserError where it does not fit the model."""
        try:
            if not all(isinstance(saved[name], kind) for name, kind in KINDS.items()):
                raise TypeError("a part of the state is not of its kind")
            if (saved["epochs"] > 0) != (saved["selected"] is not None):
                raise ValueError("the state has no selected epoch")
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.scheduler.load_state_dict(saved["scheduler"])
            self.epochs = saved["epochs"]
            self.selected, self.best_on_test = map(loaded_epoch, (saved["selected"], saved["best_on_test"]))
            self.order.set_state(saved["order"])
            self.start_epoch(PartOfEpoch(**{name: value for name, value in saved["part"].items() if name != "unseen"}))
            torch.set_rng_state(saved["random"])
            if self.device.type == "cuda" and saved["random_gpu"] is not None:
                torch.cuda.set_rng_state(saved["random_gpu"], self.device)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise UserError("the saved training does not fit this model; leave out --resume") from error


def loaded_epoch(saved: dict[str, Any] | None) -> Epoch | None:
    """An Epoch from what asdict made of it."""
    if saved is None:
        return None
    return Epoch(**saved | {name: saved[name] and Evaluation(**saved[name]) for name in ("valid", "test")})
