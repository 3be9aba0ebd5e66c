"""A search as an Optuna study in a folder, which several processes and machines share:

    journal.log              the settings and the outcome of each trial, in Optuna's journal format
    lock                     held while a process begins a trial or records its outcome
    trials/0007/seed1111/    the run of a trial with a seed, as main.py would leave it, but without a test split

A trial belongs to the process that holds the lock of its folder. A trial that is running by the journal while nobody
holds its lock was left behind by a process that died or was stopped; the next free process resumes it.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from src.errors import UserError, printable

try:
    import optuna
except ModuleNotFoundError as error:
    raise UserError("a search needs Optuna, which is not installed: pip install optuna") from error
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from src.files import FolderLock, alone_in
from src.runs.result import difference_of_settings
from src.runs.run_folder import FORMAT, as_trained
from src.sealed import seal, unseal
from src.search.space import Space, draw

STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
NAME = "search"
UNPRUNED_TRIALS = 5  # that must be complete before others are compared with them
optuna.logging.set_verbosity(optuna.logging.ERROR)


class SealedJournal(JournalFileBackend):
    """Optuna's journal with a checksum in each line."""

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The lines from a number on; ValueError where one is not what was written."""
        return map(unseal, super().read_logs(log_number_from))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add lines."""
        super().append_logs([seal(log) for log in logs])


class Study:
    """The trials of one search.

    `search` identifies it: "settings" that it starts from, "data", "space", "seeds", "sampler_seed". The values
    `first`, by name of the space, are its first trial. UserError where the folder holds another search, or
    cannot be written.
    """

    def __init__(self, folder: Path, search: dict[str, Any], space: Space, first: dict[str, Any],
                 warmup_epochs: int) -> None:
        self.folder, self.space, self.seed = Path(folder).resolve(), space, search["sampler_seed"]
        self.warmup_epochs = warmup_epochs
        try:
            (self.folder / "trials").mkdir(parents=True, exist_ok=True)
            with alone_in(self.folder):
                self.optuna = self._open()
                if NAME not in self.optuna.user_attrs:
                    self.optuna.set_user_attr(NAME, {"format": FORMAT, **search})
                if not self.optuna.trials:
                    self.optuna.enqueue_trial(first)
        except OSError as error:
            raise UserError(f"{folder} cannot hold a study: {error.strerror or error}; see --study") from error
        self._check(search)

    def _open(self) -> optuna.Study:
        """The study of the journal, a new one if there is none."""
        journal = self.folder / "journal.log"
        lock = JournalFileOpenLock(str(journal))
        try:
            lock.acquire()
            try:
                cut_broken_line(journal)
            finally:
                lock.release()
            return optuna.create_study(
                storage=optuna.storages.JournalStorage(SealedJournal(str(journal), lock)),
                pruner=optuna.pruners.MedianPruner(UNPRUNED_TRIALS, self.warmup_epochs),
                study_name=NAME, direction="minimize", load_if_exists=True,
            )
        except OSError:
            raise
        except Exception as error:  # Optuna raises anything where a line is not one of its own
            raise UserError(f"{journal} is damaged or of another version of Optuna; give another --study") from error

    def _check(self, search: dict[str, Any]) -> None:
        there = self.optuna.user_attrs[NAME]
        there = as_trained(there, there.get("format", 2))  # studies of that time did not say it
        differences = [difference_of_settings(there, search)]
        differences += [f"{name} is {there.get(name)} and {value}" for name, value in search.items()
                        if name != "settings" and there.get(name) != value]
        if difference := printable(", ".join(filter(None, differences))):
            raise UserError(f"{self.folder} holds another search ({difference}: there and asked for); "
                            "give what it has, or another --study")

    def take_up(self, trials: int) -> "Trial | None":
        """A Trial for this process, None where so many `trials` have been begun and none was left behind."""
        with alone_in(self.folder):
            begun = [trial for trial in self.trials() if trial.state != TrialState.WAITING]
            for trial in begun:
                if trial.state == TrialState.RUNNING:
                    with suppress(UserError):  # another process works on it
                        return Trial(self, trial)
            if len(begun) >= trials:
                return None
            # a sampler for each trial, so that no two processes draw the same and one process always draws the same
            self.optuna.sampler = optuna.samplers.TPESampler(seed=self.seed + len(begun))
            return Trial(self, self.optuna.ask())

    def tell(self, trial: "Trial", state: str, value: float | None = None, **attributes: Any) -> None:
        """Record the state of an ended Trial, a key of STATES, and release its lock."""
        with alone_in(self.folder):
            for name, content in attributes.items():
                trial.optuna.set_user_attr(name, content)
            self.optuna.tell(trial.number, value, STATES[state])
        trial.lock.release()

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Optuna's record of every trial, or of those in some states."""
        return self.optuna.get_trials(deepcopy=False, states=states or None)

    def count(self) -> dict[str, int]:
        """The number of trials in each of STATES."""
        states = [trial.state for trial in self.trials()]
        return {name: states.count(state) for name, state in STATES.items()}

    def running(self) -> int:
        """The number of trials that are begun and not finished."""
        return len(self.trials(TrialState.RUNNING))

    def best(self) -> FrozenTrial | None:
        """The complete trial of the lowest loss, the first of such, or None."""
        return min(self.trials(TrialState.COMPLETE), key=lambda trial: trial.value, default=None)

    def importance(self) -> dict[str, float]:
        """{name of the space: its share in the differences of the loss}, empty with less than two complete trials."""
        enough = len(self.trials(TrialState.COMPLETE)) > 1
        return optuna.importance.get_param_importances(self.optuna) if enough else {}

    def outcome(self) -> dict[str, Any]:
        """The method of the search and the values of its finished trials, one of which is complete."""
        best, finished = self.best(), self.trials(*STATES.values())
        assert best is not None
        names = {state: name for name, state in STATES.items()}
        return {
            "sampler": f"TPE, seed {self.seed} + number of the trial; Optuna {optuna.__version__}",
            "pruner": f"median, after {UNPRUNED_TRIALS} complete trials, of epochs after the first "
                      f"{self.warmup_epochs}; never trial 0",
            "trials": self.count(),
            "seconds": sum(trial.user_attrs["seconds"] for trial in finished),  # of training, in all processes
            "objective": "mean over seeds of the lowest validation loss",
            "winner": best.number, "value": best.value,
            "value_without_search": finished[0].value if finished[0].number == 0 else None,
            "values": [  # that of a pruned trial is the value of its last epoch
                {"trial": trial.number, "state": names[trial.state], "value": trial.value,
                 **{name: reason for name, reason in trial.user_attrs.items() if name == "reason"}}
                for trial in finished
            ],
        }


class Trial:
    """A trial that this process works on: its settings and its folder, whose lock it holds.

    It is one that the study has just asked for, or one that was left behind; UserError if another process holds it.
    """

    def __init__(self, study: Study, trial: optuna.Trial | FrozenTrial) -> None:
        self.number = trial.number
        self.path = study.folder / "trials" / f"{trial.number:04d}"
        self.lock = FolderLock(self.path)
        if not isinstance(trial, optuna.Trial):
            trial = optuna.Trial(study.optuna, trial._trial_id)  # there is no public name for it
        self.optuna, self.drawn = trial, draw(study.space, trial)
        self._reported = set(study.trials()[self.number].intermediate_values)

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


def cut_broken_line(journal: Path) -> None:
    """Cut off the last line of a journal if its writing was interrupted."""
    if journal.is_file() and (content := journal.read_bytes()) and not content.endswith(b"\n"):
        os.truncate(journal, content.rfind(b"\n") + 1)
