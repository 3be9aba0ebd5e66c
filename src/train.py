"""One engine for every model and task: an epoch of training, an evaluation, and the fit that joins them."""

import math
import time
from dataclasses import dataclass
from inspect import signature

import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import ReduceLROnPlateau

from src.errors import UserError

SCHEDULER_FACTOR = 0.1


@dataclass(frozen=True)
class Evaluation:
    """A model on a split: the mean loss, the predictions (N, output_dim) on the CPU, and the metrics by name."""

    loss: float
    predictions: torch.Tensor
    metrics: dict


@dataclass(frozen=True)
class Epoch:
    """An epoch's number and what its model does on the validation and test splits."""

    number: int
    valid: Evaluation
    test: Evaluation


def train_one_epoch(model, split, task, optimizer, *, batch_size, batch_chunk=1, clip, generator, device="cpu",
                    on_batch=lambda i, samples, loss: None):
    """One pass over a split in an order drawn from `generator`; returns the mean loss of a sample.

    A batch may be computed in `batch_chunk` parts; the step is the same, dropout's draws apart. `on_batch` is told
    each batch's number, size and loss. FloatingPointError where a loss is not finite.
    """
    model.train()
    total = 0.0
    for i, indices in enumerate(torch.randperm(len(split), generator=generator).split(batch_size)):
        optimizer.zero_grad()
        loss = 0.0
        for part in indices.chunk(batch_chunk):
            features, padding, labels = split.batch(part, device)
            prediction, _ = model(*features, padding)
            share = task.loss(prediction, labels) * (len(part) / len(indices))
            share.backward()
            loss += share.item()
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss of batch {i} is {loss}")
        clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        total += loss * len(indices)
        on_batch(i, len(indices), loss)
    return total / len(split)


@torch.no_grad()
def evaluate(model, split, task, *, batch_size, device="cpu"):
    """The Evaluation of a model on a split, in the split's order."""
    model.eval()
    total, predictions = 0.0, []
    for indices in torch.arange(len(split)).split(batch_size):
        features, padding, labels = split.batch(indices, device)
        prediction, _ = model(*features, padding)
        total += task.loss(prediction, labels).item() * len(indices)
        predictions.append(prediction.cpu())
    if not math.isfinite(total):
        raise FloatingPointError(f"the loss of an evaluation is {total}")
    predictions = torch.cat(predictions)
    return Evaluation(total / len(split), predictions, task.metrics(predictions, split.labels))


def make_optimizer(parameters, optim, lr):
    """The torch optimizer of that name, all parameters updated in one pass where torch can."""
    kind = getattr(torch.optim, optim)
    return kind(parameters, lr=lr, **({"fused": True} if "fused" in signature(kind).parameters else {}))


def fit(model, dataset, *, optim, lr, num_epochs, when, early_stop, batch_size, batch_chunk, clip, seed, device="cpu",
        on_batch=lambda *batch: None, on_epoch=lambda *epoch: None, on_best=lambda epoch: None):
    """Train a model and return two Epochs: that of the lowest validation loss, and that of the lowest test loss.

    Only the first may be reported as a result; the second is what test-selected figures in the literature are. The
    learning rate falls to a tenth after `when` epochs without a lower validation loss, and after `early_stop` of
    them (0: never) training ends. `on_batch(epoch, i, samples, loss)` follows each batch, `on_epoch(Epoch,
    train_loss, lr, seconds)` each epoch, `on_best(epoch)` each epoch that is the best so far.
    """
    optimizer = make_optimizer([p for p in model.parameters() if p.requires_grad], optim, lr)
    scheduler = ReduceLROnPlateau(optimizer, patience=when, factor=SCHEDULER_FACTOR)
    generator = torch.Generator().manual_seed(seed)
    selected = best_on_test = None
    for number in range(1, num_epochs + 1):
        start, lr = time.time(), optimizer.param_groups[0]["lr"]
        try:
            train_loss = train_one_epoch(
                model, dataset.splits["train"], dataset.task, optimizer, batch_size=batch_size,
                batch_chunk=batch_chunk, clip=clip, generator=generator, device=device,
                on_batch=lambda *batch, number=number: on_batch(number, *batch),
            )
            epoch = Epoch(number, *(
                evaluate(model, dataset.splits[name], dataset.task, batch_size=batch_size, device=device)
                for name in ("valid", "test")
            ))
        except FloatingPointError as error:
            raise UserError(f"training diverged in epoch {number}: {error}; try a smaller --lr or --clip") from error
        scheduler.step(epoch.valid.loss)
        on_epoch(epoch, train_loss, lr, time.time() - start)
        if selected is None or epoch.valid.loss < selected.valid.loss:
            selected = epoch
            on_best(number)
        if best_on_test is None or epoch.test.loss < best_on_test.test.loss:
            best_on_test = epoch
        if early_stop and number - selected.number >= early_stop:
            break
    return selected, best_on_test
