"""One engine for every model and task: a step, an epoch of steps, an evaluation, and the fit that joins them."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from src.dataset import Dataset, Split, evaluation_batches, lose, lost_modalities, training_batches
from src.errors import UserError, printable
from src.training.distributed import collect, mean, process_count, rank, share
from src.training.machine import TrainingError
from src.training.state import Epoch, Evaluation, TrainingState, add_gradients

NAMED_SAMPLES = 8  # of a batch that diverged
CHECKED_TOGETHER = 30  # steps on a GPU


class Step(NamedTuple):
    """A step of training: a batch that has changed the weights."""

    epoch: int  # from 1
    number: int  # of the batch in the epoch, from 0
    samples: int
    loss: float  # mean over samples


def fit(state: TrainingState, dataset: Dataset, *, num_epochs: int, early_stop: int = 0, batch_size: int,
        batch_chunk: int = 1, clip: float, trim_padding: bool = False, sort_batches: bool = False,
        modality_dropout: float | None = None,
        after_step: Callable[[Step], None] = lambda step: None) -> Iterator[Epoch]:
    """Train until `num_epochs` are done, or `early_stop` of them (0: never) have not lowered the validation loss.

    Yields each epoch once it is evaluated and counted in the state, which can then be saved. A state that was loaded
    continues where it was saved. `after_step` may raise StopRequested; the state then has the part of the epoch that
    is done. Samples of like length are batched for training if `sort_batches`; for evaluation, which that does not
    change, if the model has `trim_padding`. With the probability `modality_dropout` a sample loses a stream in a step.
    A model with a `solve` is fitted by that, without steps. TrainingError where training diverges.
    """
    while state.epochs < num_epochs and not (early_stop and state.epochs_since_best >= early_stop):
        number, lr, start = state.epochs + 1, state.lr, time.time() - state.part.seconds
        train, task = dataset.splits["train"], dataset.task
        try:
            if solve := getattr(state.model, "solve", None):
                if modality_dropout:
                    raise UserError("--modality_dropout is for models that are trained step by step; leave it out")
                solve(train, dataset.splits["valid"], task, batch_size)
                state.part.loss_sum = len(train) * evaluate(state.model, train, task, batch_size=batch_size,
                                                            device=state.device).loss
            for step in () if solve else train_one_epoch(
                state, train, task, batch_size=batch_size, batch_chunk=batch_chunk, clip=clip, by_length=sort_batches,
                trimmed=trim_padding, modality_dropout=modality_dropout or 0,
            ):
                state.part.seconds = time.time() - start
                after_step(step)
            evaluations = {
                name: evaluate(state.model, dataset.splits[name], task, batch_size=math.ceil(batch_size / batch_chunk),
                               by_length=trim_padding, device=state.device)
                for name in ("valid", "test") if name in dataset.splits
            }
        except FloatingPointError as error:
            advice = "try a smaller --lr or --clip"
            raise TrainingError(f"training diverged in epoch {number}: {error}; {advice}") from error
        train_loss = state.part.loss_sum / len(train)
        epoch = Epoch(number, **evaluations, train_loss=train_loss, lr=lr, seconds=time.time() - start)
        state.finish(epoch)
        yield epoch


def train_one_epoch(state: TrainingState, split: Split, task: Any, *, batch_size: int, batch_chunk: int = 1,
                    clip: float, by_length: bool = False, trimmed: bool = False,
                    modality_dropout: float = 0) -> Iterator[Step]:
    """Train on the batches of an epoch that are left, in an order drawn from the state's generator.

    `by_length` batches samples of like length; `trimmed` cuts the front padding that they share; with the probability
    `modality_dropout` a sample loses a stream.
    Yields each Step once its loss is checked, on a GPU many together, since a check waits for the GPU.
    FloatingPointError where a loss or gradient is not finite.
    """
    state.model.train()
    batches, unchecked = training_batches(split, batch_size, state.order, by_length), []
    for number, indices in enumerate(batches):
        if number < state.part.batches:
            continue
        outcome = train_step(state, split, task, number, indices, batch_chunk, clip, trimmed, modality_dropout)
        unchecked.append((number, indices, outcome))
        if len(unchecked) == checked_together(state.device) or number + 1 == len(batches):
            yield from check_losses(unchecked, split, state)
            unchecked = []


def train_step(state: TrainingState, split: Split, task: Any, number: int, indices: Tensor, batch_chunk: int,
               clip: float, trimmed: bool, modality_dropout: float = 0) -> Tensor:
    """Change the weights by one batch; returns this process's part of the loss, and the gradient's norm: (2,).

    The batch may be computed in `batch_chunk` parts: the step is the same, but for dropout's draws.
    """
    state.optimizer.zero_grad(set_to_none=False)
    loss = torch.zeros((), dtype=torch.float64, device=state.device)
    own, weight = share(indices, state.seed, state.epochs + 1, number)
    for part in own.chunk(batch_chunk):
        streams, labels = split.batch(part, state.device, trimmed)
        if modality_dropout:
            gone = lost_modalities(len(split), modality_dropout, state.seed, state.epochs + 1, number)[part]
            streams = tuple(lose(stream, (gone == m).unsqueeze(1)) for m, stream in enumerate(streams))
        prediction, _ = state.model(*streams)
        part_of_loss = task.loss(prediction, labels) * (weight * len(part) / len(own))
        add_gradients(part_of_loss, state.model)
        loss += part_of_loss.detach()
    for parameter in state.trained:
        if parameter.grad is not None:
            mean(parameter.grad)
    norm = clip_grad_norm_(state.trained, clip)
    state.optimizer.step()
    return torch.stack([loss, norm.double()])


def checked_together(device: torch.device) -> int:
    """After how many steps their losses are checked."""
    return 1 if device.type == "cpu" else CHECKED_TOGETHER


def check_losses(unchecked: list, split: Split, state: TrainingState) -> list[Step]:
    """Count steps (number, indices, (loss, norm)) as done in the state; FloatingPointError where one is not finite."""
    steps, part = [], state.part
    values = mean(torch.stack([value for _, _, value in unchecked])).tolist()  # this waits for a GPU
    for (number, indices, _), (loss, norm) in zip(unchecked, values, strict=True):
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = f"the loss of batch {number} is {loss} and its gradient has norm {norm}"
            before = "it is the first" if part.last_loss is None else f"the last finite loss was {part.last_loss:.4g}"
            raise FloatingPointError(f"{what}; {before}; it has {named([split.ids[k] for k in indices])}")
        part.batches, part.loss_sum, part.last_loss = number + 1, part.loss_sum + loss * len(indices), loss
        steps.append(Step(state.epochs + 1, number, len(indices), loss))
    return steps


def named(ids: list[str]) -> str:
    """The first of some samples by their ids, for a message."""
    others = f" and {len(ids) - NAMED_SAMPLES} more" if len(ids) > NAMED_SAMPLES else ""
    return f"the samples {', '.join(map(printable, ids[:NAMED_SAMPLES]))}{others}"


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, task: Any, *, batch_size: int, by_length: bool = False,
             device: torch.device | str = "cpu") -> Evaluation:
    """The Evaluation of a model on a split, in the split's order; `by_length` computes samples of like length together.

    FloatingPointError where the loss is not finite.
    """
    model.eval()
    computed = []
    batches = evaluation_batches(split, batch_size, by_length)
    for indices in batches[rank()::process_count()]:
        streams, labels = split.batch(indices, device, trimmed=by_length)
        prediction, _ = model(*streams)
        computed.append((task.loss(prediction, labels), len(indices), prediction))
    computed = collect([(loss.item() * count, prediction.cpu()) for loss, count, prediction in computed])
    losses, of_batches = zip(*computed, strict=True)
    total, predictions = sum(losses), torch.cat(of_batches)[torch.cat(list(batches)).argsort()]
    if not math.isfinite(total):
        broken = (~predictions.isfinite()).any(dim=1).nonzero().flatten()
        raise FloatingPointError(f"an evaluation has the loss {total}, from {named([split.ids[k] for k in broken])}")
    return Evaluation(total / len(split), predictions, task.metrics(predictions, split.labels))
