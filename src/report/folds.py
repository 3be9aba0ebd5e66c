"""The runs of several folds of a data set as one run, whose test samples are those of all folds together."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError, printable
from src.report.read_runs import Group, collect, predictions_of
from src.runs.result import difference_of_settings, without_nan
from src.tasks import task_of_result

FOLDS_HELP = ("results folders of the folds of a data set, in place of --results_dir: the test samples of a model and "
              "seed in all folds are joined before a metric is computed")
FOLDS_NOTE = ("{} folds: a metric is of the test samples of all folds together. The trivial baseline's and the "
              "test-selected figures are means over folds.")


def pool(folders: Sequence[str | Path]) -> tuple[dict[Group, dict[str, list]], list[str]]:
    """As `collect`, of the results folders of all folds. A pooled run has "predictions", as a predictions.npz has them,
    and else the content of the first fold's. Left out are runs that a fold lacks.
    """
    found = [collect(folder) for folder in folders]
    problems = [problem for _, of_folder in found for problem in of_folder]
    pooled: dict[Group, dict[str, list]] = {}
    for group, name, seed in dict.fromkeys(key for groups, _ in found for key in keys_of(groups)):
        runs = [run for groups, _ in found for run in groups.get(group, {}).get(name, ()) if run["seed"] == seed]
        if len(runs) < len(folders):
            problems.append(f"{name} seed{seed} on {group.title} is finished in {len(runs)} of {len(folders)} folds; "
                            "the same command trains the others")
        elif differences := {d for run in runs[1:] if (d := difference_of_settings(runs[0], run))}:
            problems.append(f"{name} seed{seed} on {group.title} mixes settings from fold to fold "
                            f"({'; '.join(sorted(differences))}); train it with one")
        else:
            pooled.setdefault(group, {}).setdefault(name, []).append(pooled_run(runs))
    return pooled, problems


def keys_of(groups: dict[Group, dict[str, list]]) -> list[tuple[Group, str, int]]:
    """The group, model folder and seed of each run."""
    return [(group, name, run["seed"]) for group, models in groups.items() for name, runs in models.items()
            for run in runs]


def pooled_run(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One run of those of a model and seed in all folds; UserError where folds share test samples."""
    stored = [predictions_of(run) for run in runs]
    joined = {part: np.concatenate([of_fold[part] for of_fold in stored]) for part in stored[0]}
    sample, times = Counter(map(str, joined["ids"])).most_common(1)[0]
    if times > 1:
        raise UserError(f"{printable(sample)} is tested in {times} of the folds, the first {runs[0]['folder']}: "
                        "--folds takes folds that test other samples")
    weights = [len(of_fold["ids"]) for of_fold in stored]
    metrics = without_nan(task_of_result(runs[0]).metrics(joined["predictions"], joined["labels"]))
    trivial, selected = (mean_metrics([run[part]["test"] for run in runs], weights)
                         for part in ("trivial_baseline", "test_selected"))
    return {
        **runs[0], "predictions": joined,
        "test": mean_metrics([run["test"] for run in runs], weights) | metrics,
        "trivial_baseline": runs[0]["trivial_baseline"] | {"test": trivial},
        "test_selected": runs[0]["test_selected"] | {"test": selected},
    }


def mean_metrics(of_folds: Sequence[dict[str, float | None]], weights: Sequence[int]) -> dict[str, float | None]:
    """The mean of each metric over folds, weighted by their samples; None where a fold has none."""
    columns = {key: [metrics.get(key) for metrics in of_folds] for key in of_folds[0]}
    return {key: None if None in values else float(np.average(np.array(values, dtype=float), weights=weights))
            for key, values in columns.items()}
