"""One engine for every model and task: an epoch of training, an evaluation, and the fit that joins them."""

import math
import time

import torch
from torch.nn.utils import clip_grad_norm_

from src.batches import evaluation_batches, training_batches
from src.errors import UserError, printable
from src.training.distributed import ONE_PROCESS
from src.training.machine import TrainingError
from src.training.state import Epoch, Evaluation, PartOfEpoch, Progress
from src.training.stop import StopRequested

NAMED_SAMPLES = 8  # of a batch that diverged
CHECKED_TOGETHER = 30  # batches on a GPU


def train_one_epoch(model, split, task, optimizer, *, batch_size, batch_chunk=1, clip, generator, by_length=False,
                    device="cpu", part_done=None, on_batch=lambda i, samples, loss: None, processes=ONE_PROCESS,
                    key=()):
    """One pass over a split in an order drawn from `generator`; returns the mean loss of a sample.

    A batch may be computed in `batch_chunk` parts; the step is the same, dropout's draws apart. `by_length` batches
    samples of like length. `on_batch` is told each batch's number, size and loss; what it raises leaves in `part_done`
    what is done by then, and the pass goes on after that if it is given again. Several `processes` share out each
    batch, and dropout's draws then go by the epoch's `key`. FloatingPointError where a loss or gradient is not finite.
    """
    model.train()
    done = part_done or PartOfEpoch()
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    together = checked_together(device)
    batches, steps = training_batches(split, batch_size, generator, by_length), []
    for i, indices in enumerate(batches):
        if i < done.batches:
            continue
        processes.reseed(*key, i)
        optimizer.zero_grad(set_to_none=False)
        loss = torch.zeros((), dtype=torch.float64, device=device)
        own, weight = processes.share(indices)
        parts = own.chunk(batch_chunk)
        for part in parts:
            with processes.part_of_step(model, last=part is parts[-1]):
                features, padding, labels = split.batch(part, device)
                prediction, _ = model(*features, padding)
                share = task.loss(prediction, labels) * (weight * len(part) / len(own))
                share.backward()
            loss += share.detach()
        norm = clip_grad_norm_(trained, clip)
        optimizer.step()
        done.unseen += 1
        steps.append((i, indices, torch.stack([loss, norm.double()])))
        if len(steps) == together or i + 1 == len(batches):
            take_in(steps, split, done, on_batch, processes)
            steps = []
    return done.loss_sum / len(split)


def checked_together(device):
    """After how many batches their losses are looked at: on a GPU not after each, since that waits for it."""
    return 1 if torch.device(device).type == "cpu" else CHECKED_TOGETHER


def take_in(steps, split, done, on_batch, processes):
    """Count steps [(number, indices, (loss, norm of the gradient))] as done, and tell of them, if they are finite."""
    values = processes.mean(torch.stack([value for _, _, value in steps])).tolist()  # on a GPU, this waits for it
    for (i, indices, _), (loss, norm) in zip(steps, values, strict=True):
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = f"the loss of batch {i} is {loss} and its gradient has norm {norm}"
            before = "it is the first" if done.last_loss is None else f"the last finite loss was {done.last_loss:.4g}"
            raise FloatingPointError(f"{what}; {before}; it has {named([split.ids[k] for k in indices])}")
        done.batches, done.loss_sum, done.last_loss = i + 1, done.loss_sum + loss * len(indices), loss
    done.unseen = 0
    for (i, indices, _), (loss, _) in zip(steps, values, strict=True):
        on_batch(i, len(indices), loss)


def named(ids):
    """The first of some samples by their ids, for a message."""
    others = f" and {len(ids) - NAMED_SAMPLES} more" if len(ids) > NAMED_SAMPLES else ""
    return f"the samples {', '.join(map(printable, ids[:NAMED_SAMPLES]))}{others}"


@torch.no_grad()
def evaluate(model, split, task, *, batch_size, by_length=False, device="cpu", processes=ONE_PROCESS):
    """The Evaluation of a model on a split, in the split's order; computed in that of length if `by_length`.

    Several `processes` share out the batches, and each returns the whole.
    """
    model.eval()
    computed = []
    batches = evaluation_batches(split, batch_size, by_length)
    for indices in processes.deal(batches):
        features, padding, labels = split.batch(indices, device)
        prediction, _ = model(*features, padding)
        computed.append((task.loss(prediction, labels), len(indices), prediction))
    computed = [(loss.item() * count, prediction.cpu()) for loss, count, prediction in computed]  # awaits a GPU
    losses, predictions = zip(*processes.collect(computed), strict=True)
    total, predictions = sum(losses), torch.cat(predictions)[torch.cat(batches).argsort()]
    if not math.isfinite(total):
        broken = (~predictions.isfinite()).any(dim=1).nonzero().flatten()
        raise FloatingPointError(f"an evaluation has the loss {total}, from {named([split.ids[k] for k in broken])}")
    return Evaluation(total / len(split), predictions, task.metrics(predictions, split.labels))


def fit(model, dataset, *, optim, lr, num_epochs, when, early_stop, batch_size, batch_chunk, clip, seed,
        trim_padding=False, sort_batches=False, device="cpu", state=None, on_resume=lambda progress: None,
        on_batch=lambda *batch: None, on_epoch=lambda *epoch: None, on_progress=lambda progress: None,
        on_best=lambda epoch: None, processes=ONE_PROCESS):
    """Train a model and return two Epochs: that of the lowest validation loss, and that of the lowest test loss, None
    where the data set comes without its test split.

    Only the first may be reported as a result; the second is what test-selected figures in the literature are. The
    learning rate falls to a tenth after `when` epochs without a lower validation loss, and after `early_stop` of
    them (0: never) training ends. Samples of like length are batched for training if `sort_batches`; for evaluation,
    which that does not change, if the model has `trim_padding`. With the `state` of an earlier Progress it goes on from
    there, after `on_resume(progress)`.

    `on_batch(epoch, i, samples, loss)` follows each batch, `on_epoch(Epoch, train_loss, lr, seconds)` each epoch; then
    `on_progress(progress)`, which can write down its state, and last `on_best(epoch)` if the model is the best so far.
    A process may die between these two: with a state in which the model is the best, `on_best` comes first of all.
    StopRequested, raised by `on_batch`, passes through after an `on_progress` in the middle of the epoch.

    Several `processes` train as one: all return the same, up to what a GPU leaves open.
    """
    progress = Progress(model, optim=optim, lr=lr, when=when, seed=seed, device=device)
    if state is not None:
        with processes.agreeing():
            try:
                progress.load(state)
            except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                message = "the training that was written down does not fit this model; leave out --resume"
                raise UserError(message) from error
            on_resume(progress)
        if progress.just_selected:
            on_best(progress.epochs)
    replica = processes.parallel(model)
    while progress.epochs < num_epochs and not (
        early_stop and progress.epochs and progress.epochs - progress.selected.number >= early_stop
    ):
        number, lr, start = progress.epochs + 1, progress.lr, time.time() - progress.part.seconds
        try:
            train_loss = train_one_epoch(
                replica, dataset.splits["train"], dataset.task, progress.optimizer, batch_size=batch_size,
                batch_chunk=batch_chunk, clip=clip, generator=progress.order, by_length=sort_batches, device=device,
                part_done=progress.part, on_batch=lambda *batch, number=number: on_batch(number, *batch),
                processes=processes, key=(seed, number),
            )
            epoch = Epoch(number, **{
                name: evaluate(model, dataset.splits[name], dataset.task, by_length=trim_padding, device=device,
                               batch_size=math.ceil(batch_size / batch_chunk), processes=processes)
                for name in ("valid", "test") if name in dataset.splits
            })
        except FloatingPointError as error:
            advice = "try a smaller --lr or --clip"
            raise TrainingError(f"training diverged in epoch {number}: {error}; {advice}") from error
        except StopRequested as stopped:
            progress.part.seconds = time.time() - start
            stopped.where = f" in epoch {number}, after {progress.part.batches} of its batches"
            if not progress.part.unseen:
                on_progress(progress)
            raise
        progress.finish(epoch)
        on_epoch(epoch, train_loss, lr, time.time() - start)
        on_progress(progress)
        if progress.just_selected:
            on_best(number)
    return progress.selected, progress.best_on_test
