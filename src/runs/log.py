"""The log of a run: the original MulT's lines in their form, so that logs can be diffed. Ours start with '# '."""

import sys
import time

from tqdm import tqdm

from src.runs.result import epoch_record, parameter_count
from src.training.machine import environment

RULE = "-" * 50


class TrainingLog:
    """Follows a `fit`, through its callbacks, into a RunFolder and, on a terminal, onto a progress bar."""

    def __init__(self, run, settings, dataset):
        self.run = run
        self.log_interval = settings.log_interval
        batches = len(dataset.splits["train"]) / settings.batch_size
        self.printed_batches = int(batches)  # the original leaves the last, smaller one out of its count
        self.batches = -int(-batches // 1)
        self.epochs = 0
        self.bar = tqdm(
            total=settings.num_epochs * self.batches, disable=not sys.stderr.isatty(), leave=False,
            unit="batch", dynamic_ncols=True, desc=f"{settings.model} on {settings.dataset}",
        )
        self._start_interval()

    def head(self, settings, sources, dataset, model, device):
        """What is trained on what, every setting with its source, and the size of the model."""
        alignment = "aligned" if settings.aligned else "unaligned"
        sizes = ", ".join(f"{len(split)} {name}" for name, split in dataset.splits.items())
        self.run.log(
            f"# {settings.model} on {settings.dataset}, {alignment}: {sizes} samples",
            "# steps x features: " + ", ".join(
                f"{name} {steps} x {width}" for name, steps, width
                in zip(("language", "audio", "vision"), dataset.input_lens, dataset.input_dims, strict=True)
            ),
            f"# {data_line(dataset)}",
            *(f"# {note}" for note in dataset.notes),
            *(f"# {name} = {value}  ({sources[name]})" for name, value in settings.recorded().items()),
            *(f"# {name}: {value}" for name, value in environment(device).items()),
            f"# parameters: {parameter_count(model):,}",
        )

    def go_on(self, progress, changes):
        """Say where a run that was cut short goes on, and what `changes` there are of what it runs on."""
        batches = progress.part.batches
        self.epochs = progress.epochs
        self.bar.update(self.epochs * self.batches + batches)
        self.run.log(
            f"# goes on after epoch {self.epochs}" + (f" and {batches} batches of the next" if batches else ""),
            *(f"# {change}: before and now; the last bits of the numbers may differ, and dropout's draws"
              for change in changes),
        )

    def on_batch(self, epoch, i, samples, loss):
        """Every `log_interval` batches, the mean training loss and the time of a batch since the last such line."""
        self.bar.update()
        self.interval_loss += loss * samples
        self.interval_samples += samples
        if i % self.log_interval == 0 and i > 0:
            mean = self.interval_loss / self.interval_samples
            milliseconds = (time.time() - self.interval_start) * 1000 / self.log_interval
            self.run.log(
                f"Epoch {epoch:2d} | Batch {i:3d}/{self.printed_batches:3d} | Time/Batch(ms) {milliseconds:5.2f} | "
                f"Train Loss {mean:5.4f}"
            )
            self._start_interval()

    def on_epoch(self, epoch, train_loss, lr, seconds):
        """The epoch's losses, in the log and, with all metrics, in metrics.jsonl."""
        self.epochs = epoch.number
        self.run.log(
            RULE,
            f"Epoch {epoch.number:2d} | Time {seconds:5.4f} sec | Valid Loss {epoch.valid.loss:5.4f}"
            + (f" | Test Loss {epoch.test.loss:5.4f}" if epoch.test else ""),
            RULE,
        )
        self.run.append_metrics(epoch_record(epoch, train_loss, lr, seconds))
        self.bar.set_postfix(epoch=epoch.number, valid_loss=f"{epoch.valid.loss:.4f}")
        self._start_interval()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """Take the progress bar off the terminal."""
        self.bar.close()

    def _start_interval(self):
        self.interval_loss, self.interval_samples, self.interval_start = 0.0, 0, time.time()


def data_line(dataset):
    """Which file was trained on, whose splits it has, and where it was read from."""
    source, device = dataset.source, dataset.splits["train"].features[0].device
    digest = f", SHA-256 {source['sha256']}" if source["sha256"] else ""
    return f"{source['file']}: {dataset.protocol} splits{digest}; read from {source['read_from']} onto {device}"


def result_lines(task, result, test):
    """The last lines of a run's log: the original's metrics of the test split, then what they are worth."""
    trivial, selected = result["trivial_baseline"], result["test_selected"]
    of_trivial = {key: trivial["test"][key] for key in task.headline}
    shown = (f"{key} {'undefined' if value is None else f'{value:.4f}'}" for key, value in of_trivial.items())
    lines = [
        *task.log_lines(test.metrics),
        f"# epoch {result['selected_epoch']} of {result['epochs']}, chosen by {result['selected_by']}",
        f"# {trivial['name']} baseline on test: {', '.join(shown)}",
        f"# the lowest test loss, {selected['test']['loss']:.4f}, came in epoch {selected['epoch']}: not a result",
    ]
    if result["no_better_on"]:
        lines.append(f"# NO BETTER than the {trivial['name']} baseline in: {', '.join(result['no_better_on'])}")
    return lines
