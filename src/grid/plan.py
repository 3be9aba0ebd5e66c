"""The runs of a grid, in their order, and the data files that they need."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product

from src.data.download import download
from src.data.specs import find_spec, missing_file_message
from src.errors import UserError
from src.files import is_held
from src.models import MODELS, ablations_of, takes_unaligned, varies_by_seed
from src.runs.resume import is_finished
from src.settings import Settings, parse_flags, resolve

DECIDED = {"model", "dataset", "aligned", "seed", "name", "results_dir"}  # by a command, for each run
ALIGNMENTS = {"both": (False, True), "aligned": (True,), "unaligned": (False,)}


@dataclass(frozen=True)
class Run:
    """One call of main.py: its flags and the settings that they resolve to."""

    flags: tuple[str, ...]
    settings: Settings

    @property
    def title(self) -> str:
        """demo unaligned PMR seed1111"""
        return " ".join(self.settings.run_path.parts[-4:])

    @property
    def finished(self) -> bool:
        """Whether its folder holds a result of these settings; UserError where it holds one of others."""
        return is_finished(self.settings.run_path, self.settings)

    def is_free(self) -> bool:
        """Whether no other process writes its folder."""
        return not is_held(self.settings.run_path)

    def epochs_done(self, since: float = 0.0) -> int:
        """The number of epochs that its folder records, 0 if its log has not been written since that time()."""
        with suppress(OSError):
            if (self.settings.run_path / "log.txt").stat().st_mtime >= since:
                return (self.settings.run_path / "metrics.jsonl").read_bytes().count(b"\n")
        return 0


def plan(
    datasets: Sequence[str], alignment: str, models: Sequence[str], seeds: Sequence[int], main_flags: Sequence[str],
    ablations: bool = False,
) -> tuple[list[Run], list[str]]:
    """The runs of a grid, and a line for each data file that is missing. A model in which nothing is random has one
    run, for the first seed. One that takes aligned data alone has none on other data. What is named twice counts once.
    """
    runs, missing = [], []
    variants: list[tuple[str, ...]] = [("--model", model) for model in dict.fromkeys(models)]
    if ablations:
        variants += [("--model", model, "--name", name, *switch)
                     for model in MODELS for name, (_, switch) in ablations_of(model).items()]
    for dataset in dict.fromkeys(datasets):
        spec = find_spec(dataset)
        for aligned in ALIGNMENTS[alignment]:
            flags = ("--dataset", dataset, *(("--aligned",) if aligned else ()), *main_flags)
            settings, _ = resolve(parse_flags((*flags, "--model", models[0])))  # a preset may be of one model
            path = spec.file(settings.data_path, aligned)
            if not spec.make and not path.is_file():
                missing.append(missing_file_message(spec, path, settings.data_path, aligned))
                continue
            for seed, variant in product(dict.fromkeys(seeds), variants):
                model = variant[1]
                if (seed != seeds[0] and not varies_by_seed(model)) or not (aligned or takes_unaligned(model)):
                    continue
                run_flags = (*flags, *variant, "--seed", str(seed))
                runs.append(Run(run_flags, resolve(parse_flags(run_flags))[0]))
    return runs, missing


def fetch_missing(datasets: Sequence[str], alignment: str, models: Sequence[str], main_flags: Sequence[str]) -> None:
    """Download the missing data files of a grid; print which cannot be fetched, since the other runs need not wait."""
    for model in models:  # a wrong name is an error before hours of downloading, not after
        settings, _ = resolve(parse_flags((*main_flags, "--model", model)))
    try:
        download([find_spec(dataset) for dataset in datasets], settings.data_path, ALIGNMENTS[alignment])
    except UserError as error:
        print(f"# {error}", file=sys.stderr)
