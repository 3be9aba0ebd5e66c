"""The finished runs of a results folder, as tables, figures and the grid see them."""

from pathlib import Path
from typing import NamedTuple

from src.errors import UserError
from src.models import MODELS
from src.runs.run_folder import read_result

NOT_OF_THE_OUTCOME = {"seed", "name", "results_dir", "data_path", "data_device", "cache_dir", "device", "compile",
                      "deterministic", "log_interval", "preset", "search"}  # a preset is spelled out in the others


class Group(NamedTuple):
    """What runs have in common that can stand in one column: their test sets are the same."""

    dataset: str
    alignment: str  # "aligned" or "unaligned"
    protocol: str  # one of PROTOCOLS

    @property
    def title(self):
        """mosi, aligned; or, of another protocol than MulT's, mosi (MMSA), aligned"""
        return f"{self.dataset}{'' if self.protocol == 'MulT' else f' ({self.protocol})'}, {self.alignment}"

    @property
    def stem(self):
        """mosi_aligned or mosi_mmsa_aligned, to begin the names of files with."""
        return "_".join([self.dataset, *([] if self.protocol == "MulT" else [self.protocol.lower()]), self.alignment])


def difference_of_settings(one, other):
    """'lr is 0.001 and 0.002', for each setting of two results that decides what a run computes, the seed apart."""
    a, b = ({k: v for k, v in result["settings"].items() if k not in NOT_OF_THE_OUTCOME} for result in (one, other))
    return ", ".join(f"{key} is {a.get(key)} and {b.get(key)}" for key in sorted(a | b) if a.get(key) != b.get(key))


def collect(results_dir, dataset=None):
    """Every finished run, of one data set if it is named, and a line about each that had to be left out.

    Returns {Group: {model folder: [run by seed]}} and the lines. A run is the content of its result.json and, as
    "folder", where it lies. The models come in the order of the registry. Left out are damaged results, runs in a
    folder that is not theirs, and models whose seeds have different settings.
    """
    groups, problems = {}, []
    for path in Path(results_dir).glob(f"{dataset or '*'}/*/*/seed*/result.json"):
        folder = path.parent
        if not folder.name.removeprefix("seed").isdecimal():
            continue  # moved aside by a later run
        try:
            run = {**read_result(folder), "folder": folder}
            group = Group(run["dataset"], "aligned" if run["aligned"] else "unaligned", run["protocol"])
            place = group[:2]
            if folder.parts[-4:-2] != place or folder.name != f"seed{run['seed']}":
                raise UserError(f"{path} is of {' '.join(place)} seed{run['seed']}; put it there or delete it")
        except UserError as error:
            problems.append(str(error))
            continue
        groups.setdefault(group, {}).setdefault(folder.parent.name, []).append(run)
    for models in groups.values():
        for name, runs in list(models.items()):
            runs.sort(key=lambda run: run["seed"])
            if differences := {d for run in runs[1:] if (d := difference_of_settings(runs[0], run))}:
                problems.append(
                    f"{runs[0]['folder'].parent} mixes settings ({'; '.join(sorted(differences))}): delete the runs "
                    "that do not belong, or start afresh with another --results_dir"
                )
                del models[name]
    order = list(MODELS)
    return {
        group: dict(sorted(models.items(), key=lambda item: (order.index(item[1][0]["model"]), item[0])))
        for group, models in sorted(groups.items()) if models
    }, sorted(problems)
