"""Finished runs that predict: `load_model(RUN).predict(text, audio, vision)`. Their training data is not needed."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from src.data.conversion import Stream
from src.data.formats import MODALITY_KEYS, RawSplit, place_of
from src.data.safe_pickle import release_pages
from src.dataset import Split
from src.errors import UserError
from src.predict.clips import Taken, fit_to, open_clips, read_clips
from src.report.read_runs import finished_runs
from src.runs.trained import TrainedOn, load_without_data
from src.settings import Settings
from src.train import named
from src.training.machine import choose_arithmetic, explained, find_device, torch_as_found

from modules.multimodal import MODALITIES


class Trained(NamedTuple):
    """A finished run, to predict with."""

    folder: Path
    model: nn.Module
    trained_on: TrainedOn
    settings: Settings


@dataclass(frozen=True)
class Predictions:
    """N clips and the answers of one or more runs, K numbers a clip: scores, or the probability of each label."""

    ids: list[str]
    splits: list[str]  # of each clip, "" where the file has none
    labels: tuple[str, ...]  # K names
    kind: str  # "score" or "probability"
    values: np.ndarray  # (N, K), the mean over runs
    spread: np.ndarray | None  # (N, K), the standard deviation over runs; None where there is one
    notes: list[str]  # what was changed or cut, in lines

    def __len__(self) -> int:
        return len(self.ids)


class Predictor:
    """One or more runs that answer together."""

    def __init__(self, runs: list[Trained], notes: list[str] | None = None) -> None:
        self.runs, self.notes = runs, notes or []
        self.trained_on = runs[0].trained_on
        for run in runs[1:]:
            if sizes_and_labels(run) != sizes_and_labels(runs[0]):
                raise UserError(f"{run.folder} and {runs[0].folder} were trained on data of other sizes or labels; "
                                "predict with each by itself")

    @property
    def batch_size(self) -> int:
        """As many clips at a time as an evaluation of the first run takes."""
        settings = self.runs[0].settings
        return math.ceil(settings.batch_size / settings.batch_chunk)

    def predict(self, text: Any = None, audio: Any = None, vision: Any = None, ids: Any = None) -> Predictions:
        """Answers for clips: of each stream an array (N, T, d), a list of N arrays (T_i, d), or one clip (T, d).

        Shorter streams are padded in front, of longer ones the end is kept. UserError where they do not fit the model.
        """
        streams = {"text": text, "audio": audio, "vision": vision, "id": ids}
        if all(streams[key] is None for key in MODALITY_KEYS):
            raise UserError(f"there is nothing to predict: give {', '.join(MODALITY_KEYS)}")
        return self.answer({"": streams}, "the clips")

    def predict_file(self, path: Path | str, shown: bool = False) -> Predictions:
        """Answers for the clips of a file; with `shown`, a bar shows how far it is."""
        return self.answer(open_clips(Path(path)), path, shown)

    def answer(self, splits: Mapping[str, Any], where: Path | str, shown: bool = False) -> Predictions:
        """Answers for splits as a file has them."""
        task, read = self.trained_on.task, read_clips(splits, self._taken(), self.runs[0].settings.aligned, where)
        notes, answers = list(self.notes), []
        with torch_as_found(), tqdm(total=sum(len(split.ids) for split in read.values()), unit="clip", leave=False,
                                    disable=not shown) as bar:
            for name, split in read.items():
                for batch in self._batches(split, place_of(name, where), notes):
                    answers.append(np.stack([self._answers_of(run, batch) for run in self.runs]))  # (runs, n, K)
                    if not np.isfinite(answers[-1]).all():
                        raise UserError(f"{place_of(name, where)}: an answer is not finite, from {named(batch.ids)}")
                    bar.update(len(batch))
        each = np.concatenate(answers, axis=1)
        return Predictions(
            ids=[i for split in read.values() for i in split.ids],
            splits=[name for name, split in read.items() for _ in split.ids],
            labels=tuple(task.labels), kind=task.kind_of_answer, values=each.mean(axis=0),
            spread=each.std(axis=0, ddof=1) if len(each) > 1 else None, notes=notes,
        )

    def _taken(self) -> dict[str, Taken]:
        """What the runs take of each stream. One that takes part in none, or was zeros in training, need not be there.
        """
        used = {m for run in self.runs for m in run.settings.options.get("modalities", MODALITIES)}
        of = self.trained_on
        return {key: Taken(width, steps, width > 1 and m in used) for key, m, width, steps
                in zip(MODALITY_KEYS, MODALITIES, of.input_dims, of.input_lens, strict=True)}

    def _batches(self, split: RawSplit, place: str, notes: list[str]) -> Iterator[Split]:
        """The clips as the model takes them, a batch at a time, so that memory does not grow with their number."""
        streams = {key: Stream(split.features[key], key, split.lengths.get(key)) for key in MODALITY_KEYS}
        lens = dict(zip(MODALITY_KEYS, self.trained_on.input_lens, strict=True))
        cut = {key: getattr(stream.array, "cut", 0) for key, stream in streams.items()}
        for start in range(0, len(split.ids), self.batch_size):
            rows, features, padding = slice(start, start + self.batch_size), [], []
            for key, stream in streams.items():
                x, hidden, lost = fit_to(stream.chunk(rows), stream.padding[rows], lens[key])
                stream.check_finite(f"{place} {key}")
                release_pages(stream.array)
                cut[key] += lost
                features.append(torch.from_numpy(x))
                padding.append(torch.from_numpy(hidden))
            yield Split(tuple(features), tuple(padding), torch.empty(len(features[0]), 0), split.ids[rows])
        notes += [f"{place}: {note}" for note in split.notes]
        notes += [line for key, stream in streams.items() for line in stream.notes(f"{place} {key}")]
        notes += [f"{place} {key}: {count} of {len(split.ids)} clips are longer than {lens[key]} steps; "
                  "their end is read"
                  for key, count in cut.items() if count]

    @staticmethod
    @torch.no_grad()  # in inference mode, the tensors that the blocks keep could not be trained with later
    def _answers_of(run: Trained, batch: Split) -> np.ndarray:
        """(n, K)"""
        settings = run.settings
        choose_arithmetic(settings.deterministic, settings.precision)
        with explained(f"{len(batch)} clips at a time do not fit"):
            streams, _ = batch.batch(range(len(batch)), find_device(settings.device), settings.trim_padding)
            prediction, _ = run.model(*streams)
        return run.trained_on.task.answer(prediction.cpu()).numpy()


def sizes_and_labels(run: Trained) -> tuple:
    """What runs must have in common to answer together."""
    of = run.trained_on
    return of.input_dims, of.input_lens, of.task.record() | {"class_weights": None}, run.settings.aligned


def load_model(*folders: Path | str, device: str = "auto", **changes: Any) -> Predictor:
    """The Predictor of finished runs, each the folder of a run, or of a model with a run for each seed.

    `changes` are settings that differ from the runs', such as the precision. UserError where a folder is neither, or a
    run has not finished; of a model's folder such runs are left out, and noted.
    """
    paths, notes = finished_runs(folders)
    with torch_as_found():
        return Predictor([Trained(path, *load_without_data(path, device=device, **changes)) for path in paths], notes)
