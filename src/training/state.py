"""How far the training of a model has come, as one thing that can be written down and gone on from."""

from dataclasses import asdict, dataclass
from inspect import signature

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

SCHEDULER_FACTOR = 0.1
KINDS = {  # of what a state holds
    "model": dict, "optimizer": dict, "scheduler": dict, "random": torch.Tensor, "random_gpu": torch.Tensor | None,
    "order": torch.Tensor, "epochs": int, "part": dict, "selected": dict | None, "best_on_test": dict | None,
}


@dataclass(frozen=True)
class Evaluation:
    """A model on a split: the mean loss, the predictions (N, output_dim) on the CPU, and the metrics by name."""

    loss: float
    predictions: torch.Tensor
    metrics: dict


@dataclass(frozen=True)
class Epoch:
    """An epoch's number and what its model does on the validation split and, where that was loaded, the test split."""

    number: int
    valid: Evaluation
    test: Evaluation | None = None


@dataclass
class PartOfEpoch:
    """The batches of an epoch that are done."""

    batches: int = 0
    loss_sum: float = 0.0  # over samples
    seconds: float = 0.0
    last_loss: float | None = None  # of a batch, in this epoch or the one before
    unseen: int = 0  # steps that the model has made besides, whose losses have not been looked at


def make_optimizer(model, optim, lr):
    """The torch optimizer of that name for what can be trained of a model, all of it updated in one pass."""
    kind = getattr(torch.optim, optim)
    return kind([as_one_vector(model)], lr=lr, **({"fused": True} if "fused" in signature(kind).parameters else {}))


def as_one_vector(model):
    """Move the trainable parameters of a model and their gradients into a vector each, of which they become parts.

    Hundreds of small tensors are then clipped, updated and zeroed as one. Gradients have to be zeroed, not dropped.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    vector = torch.nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
    vector.grad = torch.zeros_like(vector)
    sizes = [p.numel() for p in parameters]
    for p, values, gradient in zip(parameters, vector.data.split(sizes), vector.grad.split(sizes), strict=True):
        p.data, p.grad = values.view(p.shape), gradient.view(p.shape)
    return vector


class Progress:
    """Everything that changes while a model is trained.

    Training that goes on from what `state` returned is, on a CPU, the same to the last bit as training that was never
    interrupted: the state holds the weights, the optimizer, the scheduler, torch's random generators and the order of
    the data, also in the middle of an epoch. Nothing else is drawn from in training.
    """

    def __init__(self, model, *, optim, lr, when, seed, device="cpu"):
        self.model, self.device = model, torch.device(device)
        self.optimizer = make_optimizer(model, optim, lr)
        self.scheduler = ReduceLROnPlateau(self.optimizer, patience=when, factor=SCHEDULER_FACTOR)
        self.order = torch.Generator().manual_seed(seed)
        self.epochs = 0  # finished ones
        self.selected = self.best_on_test = None
        self._start_epoch(PartOfEpoch())

    def _start_epoch(self, part):
        self.part = part
        self._order_of_epoch = self.order.get_state()

    @property
    def lr(self):
        """The learning rate of the next step."""
        return self.optimizer.param_groups[0]["lr"]

    @property
    def just_selected(self):
        """Whether the model is that of the epoch with the lowest validation loss so far."""
        return self.selected is not None and self.selected.number == self.epochs and not self.part.batches

    def finish(self, epoch):
        """Take in a finished Epoch."""
        self.scheduler.step(epoch.valid.loss)
        self.epochs = epoch.number
        if self.selected is None or epoch.valid.loss < self.selected.valid.loss:
            self.selected = epoch
        if epoch.test and (self.best_on_test is None or epoch.test.loss < self.best_on_test.test.loss):
            self.best_on_test = epoch
        self._start_epoch(PartOfEpoch(last_loss=self.part.last_loss))

    def state(self):
        """All of it, as tensors and plain containers."""
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

    def load(self, state):
        """Go on from there; an error of some kind where the state is not such as fits the model."""
        if not all(isinstance(state[name], kind) for name, kind in KINDS.items()):
            raise TypeError("a part of the state is not of its kind")
        if (state["epochs"] > 0) != (state["selected"] is not None):
            raise ValueError("the state has no selected epoch")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.epochs = state["epochs"]
        self.selected, self.best_on_test = (
            kept and Epoch(kept["number"], *(split and Evaluation(**split) for split in (kept["valid"], kept["test"])))
            for kept in (state["selected"], state["best_on_test"])
        )
        self.order.set_state(state["order"])
        self._start_epoch(PartOfEpoch(**state["part"]))
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and state["random_gpu"] is not None:
            torch.cuda.set_rng_state(state["random_gpu"], self.device)
