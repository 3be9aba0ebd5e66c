"""The trials of a search, and the preset of the best one. `python -m src tune` starts this."""

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from src.files import alone_in
from src.presets import search_cost, write_preset
from src.report.drawing import STYLE, draw_history, draw_importance
from src.report.escapes import drawn_text
from src.report.plots import save
from src.runs.log import TrainingLog
from src.runs.run import begin, fit_into, prepare
from src.runs.run_folder import RunFolder, read_metrics
from src.search.space import draw, search_space, start
from src.search.study import Study, Trial
from src.settings import Settings, presettable, resolve
from src.training.machine import TrainingError
from src.training.stop import StopSignals

SPLITS = ("train", "valid")
WARMUP = 4  # this part of a seed's epochs is left to every trial


class Pruned(Exception):  # noqa: N818, as Optuna's
    """A trial is worse than most."""


class Search:
    """A study, and the settings that its trials have in common."""

    def __init__(self, flags: dict[str, Any], seeds: Sequence[int], sampler_seed: int, folder: str | None,
                 command: str) -> None:
        self.settings, self.sources = resolve(flags)
        self.seeds, self.command, self.flags = seeds, command, flags
        settings = self.settings
        self.folder = Path(folder or Path("studies", *settings.run_path.parts[-4:-1]))
        prepared = prepare(settings, SPLITS)  # an error of all trials is raised before the first
        self.space = search_space(settings, flags, len(prepared.dataset.splits["train"]))
        self.protocol, self.environment = prepared.dataset.protocol, prepared.config["environment"]
        self.study = Study(
            self.folder, {
                "settings": settings.recorded(), "data": prepared.config["data"],
                "space": {name: str(values) for name, values in self.space.items()},
                "seeds": self.seeds, "sampler_seed": sampler_seed,
            },
            self.space, {name: start(settings, name) for name in self.space}, settings.num_epochs // WARMUP,
        )

    def run(self, trials: int) -> None:
        """Work on trials until so many are done or other processes work on the rest; prints a line for each."""
        started, done_before = time.time(), sum(self.study.count().values())
        with StopSignals() as stop:
            while (trial := self.study.take_up(trials)) is not None:
                outcome = self.try_out(trial, stop)
                self.write_preset()
                best, counts = self.study.best(), self.study.count()
                done = sum(counts.values())
                left = (time.time() - started) / max(done - done_before, 1) * max(trials - done, 0)
                lowest = f"lowest {best.value:.4f} of trial {best.number}" if best else "none complete"
                states = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
                tqdm.write(f"# trial {trial.number}: {outcome}; {lowest}; {done} of {trials} done, "
                           f"about {left / 60:.0f} min left ({states})")
                sys.stdout.flush()
                stop.check()

    def try_out(self, trial: Trial, stop: StopSignals) -> str:
        """Train a Trial's seeds and record its outcome in the study; returns the outcome in words."""
        settings = self.settings.changed(trial.drawn)
        sources = self.sources | dict.fromkeys(trial.drawn, f"trial {trial.number} of {self.folder}")
        losses: list[float] = []
        state, value, reason = "complete", None, dict[str, str]()
        try:
            for seed in self.seeds:
                losses.append(self.lowest_loss(trial, replace(settings, seed=seed), sources, losses, stop))
            value = statistics.mean(losses)
        except Pruned:
            state = "pruned"
        except TrainingError as error:
            state, reason = "failed", {"reason": str(error)}
        self.study.tell(trial, state, value, seconds=seconds_of_epochs(trial.path), **reason)
        for weights in trial.path.glob("seed*/*.pt"):  # a preset is trained again; many trials would fill the disk
            weights.unlink()
        return " ".join([state, *reason.values()]) if value is None else f"{value:.4f}"

    def lowest_loss(
        self, trial: Trial, settings: Settings, sources: dict[str, str], before: list[float], stop: StopSignals
    ) -> float:
        """The lowest validation loss of a run of a Trial, after those of the seeds `before` it; Pruned if it is worse
        than most.
        """
        if (known := trial.loss(settings.seed)) is not None:
            return known

        began, run = time.time(), prepare(settings, SPLITS)
        with (
            RunFolder(trial.path / f"seed{settings.seed}", shown=False) as folder,
            TrainingLog(folder, settings, run.dataset) as log,
        ):
            state, began = begin(folder, log, run, sources, True, began)
            for epoch in fit_into(folder, log, stop, run, state, began):
                step = len(before) * settings.num_epochs + epoch.number
                if trial.is_hopeless(step, statistics.mean([*before, epoch.valid.loss])):
                    raise Pruned
        assert state.selected is not None
        trial.keep_loss(settings.seed, state.selected.valid.loss)
        return state.selected.valid.loss

    def write_preset(self) -> dict[str, Any] | None:
        """Write the preset of the best settings so far, if a trial is complete; returns its content."""
        with alone_in(self.folder):
            if (best := self.study.best()) is None:
                return None
            settings = self.settings
            chosen, names = settings.changed(draw(self.space, best)).recorded(), presettable(settings.model)
            preset = {
                "model": settings.model, "dataset": settings.dataset, "aligned": settings.aligned,
                "protocol": self.protocol, "settings": {name: chosen[name] for name in names if name in chosen},
                "found_by": {
                    "command": self.command, "seeds": self.seeds, **self.study.outcome(),
                    "space": {name: f"{values} ({values.source})" for name, values in self.space.items()},
                    "fixed": sorted(set(self.flags) & set(names)), "environment": self.environment,
                },
            }
            write_preset(self.folder / "preset.json", preset)
            return preset

    def draw(self, preset: dict[str, Any]) -> list[Path]:
        """Draw the history and the importance of the settings, beside the preset; returns the paths."""
        title, paths = f"{self.settings.model}: {search_cost(preset)}", []
        with alone_in(self.folder), drawn_text(**STYLE):
            paths.append(save(draw_history(title, preset["found_by"]["values"]), self.folder, "history"))
            if importance := self.study.importance():
                paths.append(save(draw_importance(title, importance), self.folder, "importance"))
        return paths


def seconds_of_epochs(folder: Path) -> float:
    """The seconds of all epochs of the runs in a trial's folder."""
    return sum(epoch["seconds"] for path in folder.glob("seed*/metrics.jsonl") for epoch in read_metrics(path.parent))
