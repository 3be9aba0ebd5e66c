"""A search as an Optuna study in a folder, which several processes and machines share:

    journal.log              the settings and the outcome of each trial, in Optuna's journal format
    lock                     held while a process takes up a trial or tells of one
    trials/0007/seed1111/    the run of a trial with a seed, as main.py would leave it, but without a test split

A trial belongs to the process that holds the lock of its folder. A trial that is running by the journal while nobody
holds its lock was left behind by a process that died or was stopped; the next free process resumes it.
"""

import os
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from src.errors import UserError, printable
from src.files import FolderLock, alone_in
from src.runs.result import difference_of_settings
from src.search.space import Space, draw

STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
NAME = "search"
UNPRUNED_TRIALS = 5  # that must be complete before others are compared with them
optuna.logging.set_verbosity(optuna.logging.ERROR)


class Study:
    """The trials of one search.

    `search` identifies it: "settings" that it starts from, "data", "space", "seeds", "sampler_seed". The values
    `first`, by name of the space, are its first trial. UserError where the folder holds another search, or
    cannot be written.
    """

    def __init__(self, folder: Path, search: dict[str, Any], space: Space, first: dict[str, Any],
                 warmup_epochs: int) -> None:
        self.folder, self.space, self.seed = Path(folder).resolve(), space, search["sampler_seed"]
        self._warmup_epochs = warmup_epochs
        try:
            (self.folder / "trials").mkdir(parents=True, exist_ok=True)
            with alone_in(self.folder):
                self._study = self._open()
                if NAME not in self._study.user_attrs:
                    self._study.set_user_attr(NAME, search)
                if not self._study.trials:
                    self._study.enqueue_trial(first)
        except OSError as error:
            raise UserError(f"{folder} cannot hold a study: {error.strerror or error}; see --study") from error
        self._check(search)

    def _open(self) -> optuna.Study:
        """The study of the journal, which it makes if there is none."""
        journal = self.folder / "journal.log"
        lock = JournalFileOpenLock(str(journal))
        try:
            lock.acquire()
            try:
                cut_broken_line(journal)
            finally:
                lock.release()
            return optuna.create_study(
                storage=optuna.storages.JournalStorage(JournalFileBackend(str(journal), lock)),
                pruner=optuna.pruners.MedianPruner(UNPRUNED_TRIALS, self._warmup_epochs),
                study_name=NAME, direction="minimize", load_if_exists=True,
            )
        except OSError:
            raise
        except Exception as error:  # Optuna raises anything where a line is not one of its own
            raise UserError(f"{journal} is damaged or of another version of Optuna; give another --study") from error

    def _check(self, search: dict[str, Any]) -> None:
        there = self._study.user_attrs[NAME]
        differences = [difference_of_settings(there, search), *(
            f"{name} is {there.get(name)} and {value}" for name, value in search.items()
            if name != "settings" and there.get(name) != value
        )]
        if difference := printable(", ".join(filter(None, differences))):
            raise UserError(f"{self.folder} holds another search ({difference}: there and asked for); "
                            "give what it has, or another --study")

    def take_up(self, trials: int) -> "Trial | None":
        """A Trial for this process, None where so many `trials` have been begun and none was left behind."""
        with alone_in(self.folder):
            begun = [trial for trial in self.trials() if trial.state != TrialState.WAITING]
            for trial in begun:
                if trial.state == TrialState.RUNNING and (lock := free_lock(self._path(trial))):
                    left_behind = optuna.trial.Trial(self._study, trial._trial_id)  # there is no public name for it
                    return self._trial(left_behind, lock)
            if len(begun) >= trials:
                return None
            # a sampler for each trial, so that no two processes draw the same and one process always draws the same
            self._study.sampler = optuna.samplers.TPESampler(seed=self.seed + len(begun))
            trial = self._study.ask()
            return self._trial(trial, FolderLock(self._path(trial)))

    def _path(self, trial: Any) -> Path:
        return self.folder / "trials" / f"{trial.number:04d}"

    def _trial(self, trial: optuna.Trial, lock: FolderLock) -> "Trial":
        return Trial(trial, self._path(trial), draw(self.space, trial), lock)

    def tell(self, trial: "Trial", state: str, value: float | None = None, **attributes: Any) -> None:
        """Record the state of an ended Trial, a key of STATES, and release its lock."""
        with alone_in(self.folder):
            for name, content in attributes.items():
                trial.optuna.set_user_attr(name, content)
            self._study.tell(trial.number, value, STATES[state])
        trial.lock.release()

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """Optuna's record of every trial."""
        return self._study.get_trials(deepcopy=False)

    def count(self) -> dict[str, int]:
        """The number of trials in each of STATES."""
        states = [trial.state for trial in self.trials()]
        return {name: states.count(state) for name, state in STATES.items()}

    def running(self) -> int:
        """The number of trials that are begun and not finished."""
        return sum(trial.state == TrialState.RUNNING for trial in self.trials())

    def best(self) -> optuna.trial.FrozenTrial | None:
        """The complete trial of the lowest loss, the first of such, or None."""
        return min(self._complete(), key=lambda trial: trial.value, default=None)

    def _complete(self) -> list[optuna.trial.FrozenTrial]:
        return [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]

    def drawn(self, trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
        """{setting: value} of a finished trial, by Optuna's record."""
        return draw(self.space, optuna.trial.FixedTrial(trial.params))

    def record(self, trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
        """A finished trial for the preset's file; the value of a pruned trial is that of its last epoch."""
        (state,) = (name for name, state in STATES.items() if state == trial.state)
        return {"trial": trial.number, "state": state, "value": trial.value,
                **{name: trial.user_attrs[name] for name in ("reason",) if name in trial.user_attrs}}

    @property
    def sampler(self) -> str:
        """The method that draws the settings, in words."""
        return f"TPE, seed {self.seed} + number of the trial; Optuna {optuna.__version__}"

    @property
    def pruner(self) -> str:
        """The rule that ends trials early, in words."""
        return (f"median, after {UNPRUNED_TRIALS} complete trials, of epochs after the first {self._warmup_epochs}; "
                "never trial 0")

    def importance(self) -> dict[str, float]:
        """{name of the space: its share in the differences of the loss}, empty where too little is complete."""
        return optuna.importance.get_param_importances(self._study) if len(self._complete()) > 1 else {}


class Trial:
    """A trial that this process works on: its settings, its folder, and the losses of its finished seeds."""

    def __init__(self, trial: optuna.Trial, path: Path, drawn: dict[str, Any], lock: FolderLock) -> None:
        self.optuna, self.path, self.drawn, self.lock = trial, path, drawn, lock
        self.number = trial.number
        self._reported = set(trial.study.get_trials(deepcopy=False)[self.number].intermediate_values)

    def loss(self, seed: int) -> float | None:
        """The lowest validation loss of a seed, None where the seed is not trained yet."""
        return self.optuna.user_attrs.get(f"seed{seed}")

    def keep_loss(self, seed: int, loss: float) -> None:
        """Record the lowest validation loss of a seed."""
        self.optuna.set_user_attr(f"seed{seed}", loss)

    def is_hopeless(self, step: int, loss: float) -> bool:
        """Record a loss; returns whether it is worse than that of most trials, False for the first trial."""
        if step not in self._reported:
            self.optuna.report(loss, step)
        return self.number > 0 and self.optuna.should_prune()


def free_lock(folder: Path) -> FolderLock | None:
    """The FolderLock of a folder, None where another process has it."""
    try:
        return FolderLock(folder)
    except UserError:
        return None


def cut_broken_line(journal: Path) -> None:
    """Cut off the last line of a journal if its writing was interrupted."""
    if journal.is_file() and (content := journal.read_bytes()) and not content.endswith(b"\n"):
        os.truncate(journal, content.rfind(b"\n") + 1)
