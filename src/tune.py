"""Search for the settings of a model on a data set: python -m src.tune --model PMR --dataset mosi --aligned --trials 50

What src/search_space.py declares is searched, but for what a flag of main.py fixes. A trial trains its seeds one after
the other and is worth the mean of their lowest validation losses; one that is worse than most is pruned. The test split
is not loaded. Trial 0 has the settings that main.py would take, so that the best is as good as those at least.

Several processes, on one machine or on several that share the folder, work on one study if each is given the same
command. The same command goes on with a study that was killed, stopped or is to have more trials.
"""

import argparse
import json
import shlex
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import matplotlib
from tqdm import tqdm

from src.drawing import STYLE
from src.errors import Parser, UserError, printable, run_command
from src.failures import TrainingError
from src.lock import alone_in
from src.machine import find_device
from src.plots import save
from src.preset import search_cost, write_preset
from src.result import environment
from src.run_folder import RunFolder
from src.search_figures import draw_history, draw_importance
from src.search_space import search_space, start
from src.settings import count, parse_flags, presettable, resolve
from src.signals import Stopped, StopSignals
from src.training_log import TrainingLog
from src.training_run import begin, fit_into, prepare

SEEDS = (1111, 1112, 1113)  # our choice: the first of run_all.sh
SPLITS = ("train", "valid")
WARMUP = 4  # this part of a seed's epochs is left to every trial
NO_SETTINGS = ("seed", "name", "results_dir", "resume", "download", "eval", "repeat")


class Pruned(Exception):  # noqa: N818, as Optuna's
    """A trial is worse than most."""


class Search:
    """A study, and what its trials have in common."""

    def __init__(self, arguments, flags, command):
        from src.study import Study  # noqa: PLC0415, it needs Optuna, an optional extra

        self.settings, self.sources = resolve(flags)
        self.seeds, self.command, self.flags = arguments.seeds, command, flags
        settings = self.settings
        self.folder = Path(arguments.study or Path("studies", *settings.run_path.parts[-4:-1]))
        prepared = prepare(settings, SPLITS)  # what is wrong for all trials is told before the first
        self.space = search_space(settings, flags, len(prepared.dataset.splits["train"]))
        self.protocol, self.environment = prepared.dataset.protocol, environment(find_device(settings.device))
        self.study = Study(
            self.folder, {
                "settings": settings.recorded(), "data": prepared.config["data"],
                "space": {name: str(values) for name, values in self.space.items()},
                "seeds": self.seeds, "sampler_seed": arguments.sampler_seed,
            },
            self.space, {name: start(settings, name) for name in self.space}, settings.num_epochs // WARMUP,
        )

    def run(self, trials):
        """Work on trials until so many are done or in others' hands."""
        started, done_before = time.time(), sum(self.study.count().values())
        with StopSignals() as stop:
            while (trial := self.study.take_up(trials)) is not None:
                outcome = self.try_out(trial, stop)
                self.write_preset()
                done = sum(self.study.count().values())
                left = (time.time() - started) / max(done - done_before, 1) * max(trials - done, 0)
                self.say(trial.number, outcome, f"{done} of {trials} done, about {left / 60:.0f} min left")
                stop.check()

    def try_out(self, trial, stop):
        """Train a Trial's seeds and tell the study what came of it; returns that in words."""
        settings = replace(self.settings, **trial.drawn)
        sources = self.sources | dict.fromkeys(trial.drawn, f"trial {trial.number} of {self.folder}")
        losses = []
        try:
            for seed in self.seeds:
                losses.append(self.lowest_loss(trial, replace(settings, seed=seed), sources, losses, stop))
        except Pruned:
            state, value, told = "pruned", None, {}
        except TrainingError as error:
            state, value, told = "failed", None, {"reason": str(error)}
        else:
            state, value, told = "complete", statistics.mean(losses), {}
        self.study.tell(trial, state, value, seconds=seconds_of_epochs(trial.path), **told)
        for weights in trial.path.glob("seed*/*.pt"):  # a preset is trained again; many trials would fill the disk
            weights.unlink()
        return f"{value:.4f}" if value is not None else f"{state} {told.get('reason', '')}".rstrip()

    def lowest_loss(self, trial, settings, sources, before, stop):
        """The lowest validation loss of a run of a Trial, after those of the seeds `before` it; Pruned if it is worse
        than most.
        """
        if (known := trial.loss(settings.seed)) is not None:
            return known

        def after_epoch(epoch):
            step = len(before) * settings.num_epochs + epoch.number
            if trial.is_hopeless(step, statistics.mean([*before, epoch.valid.loss])):
                raise Pruned

        began, run_of = time.time(), prepare(settings, SPLITS)
        with (
            RunFolder(trial.path / f"seed{settings.seed}", shown=False) as run,
            TrainingLog(run, settings, run_of.dataset) as log,
        ):
            last = begin(run, log, run_of, settings, sources, resume=True)
            selected, _, _ = fit_into(run, log, stop, run_of, settings, last, began, after_epoch)
        trial.keep_loss(settings.seed, selected.valid.loss)
        return selected.valid.loss

    def say(self, number, outcome, rest):
        """A line for a trial that has ended."""
        best, counts = self.study.best(), self.study.count()
        lowest = f"lowest {best.value:.4f} of trial {best.number}" if best else "none complete"
        states = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
        tqdm.write(f"# trial {number}: {outcome}; {lowest}; {rest} ({states})")
        sys.stdout.flush()

    def write_preset(self):
        """Write the best settings so far and what they took, if a trial is complete."""
        with alone_in(self.folder):
            if self.study.best():
                write_preset(self.folder / "preset.json", self.preset())

    def preset(self):
        """The content of the preset's file."""
        best, settings = self.study.best(), self.settings
        trials = [trial for trial in self.study.trials() if trial.state.is_finished()]
        chosen = replace(settings, **self.study.drawn(best)).recorded()
        return {
            "model": settings.model, "dataset": settings.dataset, "aligned": settings.aligned,
            "protocol": self.protocol,
            "settings": {name: chosen[name] for name in presettable(settings.model)},
            "found_by": {
                "command": self.command, "seeds": self.seeds, "sampler": self.study.sampler,
                "pruner": self.study.pruner, "trials": self.study.count(),
                "seconds": sum(trial.user_attrs["seconds"] for trial in trials),  # of training, in all processes
                "objective": "mean over seeds of the lowest validation loss",
                "winner": best.number, "value": best.value,
                "value_without_search": trials[0].value if trials[0].number == 0 else None,
                "values": [self.study.record(trial) for trial in trials],
                "space": {name: f"{values} ({values.source})" for name, values in self.space.items()},
                "fixed": sorted(set(self.flags) & set(presettable(settings.model))),
                "environment": self.environment,
            },
        }

    def draw(self):
        """Draw the history and the importance of the settings; returns the paths."""
        found_by, paths = self.preset()["found_by"], []
        title = f"{self.settings.model}: {search_cost(self.preset())}"
        with alone_in(self.folder), matplotlib.rc_context(STYLE):
            paths.append(save(draw_history(title, found_by["values"]), self.folder, "history"))
            if importance := self.study.importance():
                paths.append(save(draw_importance(title, importance), self.folder, "importance"))
        return paths


def seconds_of_epochs(folder):
    """What the epochs of all runs in a trial's folder took."""
    return sum(
        json.loads(line)["seconds"]
        for path in folder.glob("seed*/metrics.jsonl") for line in path.read_text(encoding="utf-8").splitlines()
    )


def parse_arguments(argv):
    """The command line of src.tune, and the flags of main.py in it."""
    parser = Parser(prog="python -m src.tune", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter,
                    epilog="All flags of main.py that are settings can be given too; what they say is not searched.")
    parser.add_argument("--trials", type=count(1), default=50,
                        help="in all, by all processes: complete, pruned and failed ones (default: 50)")
    parser.add_argument("--seeds", nargs="+", type=count(0), default=list(SEEDS),
                        help=f"of each trial (default: {' '.join(map(str, SEEDS))}, our choice)")
    parser.add_argument("--study", metavar="DIR", help="folder of the study (default: "
                        "studies/<dataset>/<aligned|unaligned>/<model>)")
    parser.add_argument("--sampler_seed", type=count(0, 2**31), default=0, help="of what is drawn (default: 0)")
    arguments, rest = parser.parse_known_args(argv)
    flags = parse_flags(rest)
    if wrong := sorted(set(flags) & set(NO_SETTINGS)):
        raise UserError(f"--{wrong[0]} cannot be given here: the study has its own folders and seeds")
    if len(set(arguments.seeds)) < len(arguments.seeds):
        raise UserError(f"--seeds {' '.join(map(str, arguments.seeds))} names a seed twice")
    return arguments, flags, rest


def run(argv):
    """The command line of `python -m src.tune`."""
    arguments, flags, rest = parse_arguments(argv)
    try:
        search = Search(arguments, flags, shlex.join(["python", "-m", "src.tune", *argv]))
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise UserError("a search needs Optuna, which is not installed: pip install optuna") from error
    tqdm.write(f"# {search.folder}: {arguments.trials} trials x {len(search.seeds)} seeds; searched are")
    tqdm.write("\n".join(f"#   {name}: {values} ({values.source})" for name, values in search.space.items()))
    search.run(arguments.trials)
    if running := search.study.running():
        tqdm.write(f"# {running} more in the hands of other processes; the last of them ends the search")
    else:
        show_outcome(search, rest)


def show_outcome(search, main_flags):
    """Draw the figures of a finished Search and say what it found, and the command that trains with that."""
    if search.study.best():
        search.write_preset()
        found_by = search.preset()["found_by"]
        without = found_by["value_without_search"]
        again = ["python", "main.py", *main_flags, "--preset", str(search.folder / "preset.json")]
        print(
            f"# lowest validation loss: {found_by['value']:.4f}, trial {found_by['winner']}; without a search, trial "
            + ("0: it failed" if without is None else f"0: {without:.4f}"),
            *(f"# {path}" for path in search.draw()), f"# to train with its settings: {shlex.join(again)}", sep="\n",
        )
    else:
        reasons = [trial.user_attrs["reason"] for trial in search.study.trials() if "reason" in trial.user_attrs]
        raise UserError(f"no trial was complete; the last failed: {printable(reasons[-1])}")


def main(argv=None):
    """Search; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        return run_command(run, argv)
    except Stopped as stopped:
        print(f"# stopped by {stopped.signal}; the same command goes on", file=sys.stderr)
        return stopped.code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
