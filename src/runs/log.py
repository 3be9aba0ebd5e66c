"""The log of a run: the original MulT's lines in their form, so that logs can be diffed. Ours start with '# '."""

import sys
import time
from typing import Any

from tqdm import tqdm

from src.dataset import Dataset
from src.runs.result import epoch_record, parameter_count
from src.runs.run_folder import RunFolder
from src.train import Step
from src.training.machine import environment
from src.training.state import Epoch, Evaluation, TrainingState

RULE = "-" * 50


class TrainingLog:
    """Writes the course of a training into a RunFolder and, on a terminal, onto a progress bar."""

    def __init__(self, folder: RunFolder, settings: Any, dataset: Dataset):
        self.folder = folder
        self.log_interval = settings.log_interval
        batches = len(dataset.splits["train"]) / settings.batch_size
        self.printed_batches = int(batches)  # the original leaves the last, smaller one out of its count
        self.batches = -int(-batches // 1)
        self.bar = tqdm(
            total=settings.num_epochs * self.batches, disable=not sys.stderr.isatty(), leave=False,
            unit="batch", dynamic_ncols=True, desc=f"{settings.model} on {settings.dataset}",
        )
        self._start_interval()

    def head(self, settings: Any, sources: dict[str, str], dataset: Dataset, state: TrainingState) -> None:
        """The data, every setting with its source, the machine, and the size of the model."""
        alignment = "aligned" if settings.aligned else "unaligned"
        sizes = ", ".join(f"{len(split)} {name}" for name, split in dataset.splits.items())
        self.folder.log(
            f"# {settings.model} on {settings.dataset}, {alignment}: {sizes} samples",
            "# steps x features: " + ", ".join(
                f"{name} {steps} x {width}" for name, steps, width
                in zip(("language", "audio", "vision"), dataset.input_lens, dataset.input_dims, strict=True)
            ),
            f"# {data_line(dataset)}",
            f"# {dataset.choice}",
            *(f"# {note}" for note in (*dataset.notes, *getattr(state.model, "notes", ()))),
            *(f"# {name} = {value}  ({sources[name]})" for name, value in settings.recorded().items()),
            *(f"# {name}: {value}" for name, value in environment(state.device).items()),
            f"# parameters: {parameter_count(state.model):,}",
        )

    def resume(self, state: TrainingState, changes: list[str]) -> None:
        """The place where a run resumes, and the `changes` of the machine and versions since."""
        batches = state.part.batches
        self.bar.update(state.epochs * self.batches + batches)
        self.folder.log(
            f"# resumes after epoch {state.epochs}" + (f" and {batches} batches of the next" if batches else ""),
            *(f"# {change}: before and now; the last bits of the numbers may differ, and dropout's draws"
              for change in changes),
        )

    def step(self, step: Step) -> None:
        """Every `log_interval` steps, the mean training loss and the time of a step since the last such line."""
        self.bar.update()
        self.interval_loss += step.loss * step.samples
        self.interval_samples += step.samples
        if step.number % self.log_interval == 0 and step.number > 0:
            mean = self.interval_loss / self.interval_samples
            milliseconds = (time.time() - self.interval_start) * 1000 / self.log_interval
            self.folder.log(
                f"Epoch {step.epoch:2d} | Batch {step.number:3d}/{self.printed_batches:3d} | "
                f"Time/Batch(ms) {milliseconds:5.2f} | Train Loss {mean:5.4f}"
            )
            self._start_interval()

    def epoch(self, epoch: Epoch) -> None:
        """The epoch's losses, in the log and, with all metrics, in metrics.jsonl."""
        self.folder.log(
            RULE,
            f"Epoch {epoch.number:2d} | Time {epoch.seconds:5.4f} sec | Valid Loss {epoch.valid.loss:5.4f}"
            + (f" | Test Loss {epoch.test.loss:5.4f}" if epoch.test else ""),
            RULE,
        )
        self.folder.append_metrics(epoch_record(epoch))
        self.bar.set_postfix(epoch=epoch.number, valid_loss=f"{epoch.valid.loss:.4f}")
        self._start_interval()

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def _start_interval(self) -> None:
        self.interval_loss, self.interval_samples, self.interval_start = 0.0, 0, time.time()


def data_line(dataset: Dataset) -> str:
    """The file of the data set, whose splits it has, and where it was read from."""
    source, device = dataset.source, dataset.splits["train"].features[0].device
    digest = f", SHA-256 {source['sha256']}" if source["sha256"] else ""
    return f"{source['file']}: {dataset.protocol} splits{digest}; read from {source['read_from']} onto {device}"


def result_lines(task: Any, result: dict, test: Evaluation) -> list[str]:
    """The last lines of a log: the original's metrics of the test split, the epoch, and the trivial baseline."""
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
