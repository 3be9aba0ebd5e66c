"""The runs of a grid, in their order, and the data files that they need."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from src.data.download import download
from src.data.specs import find_spec, missing_file_message
from src.errors import UserError
from src.models import MODELS, ablations_of
from src.runs.resume import is_finished
from src.settings import Settings, parse_flags, resolve

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

    def epochs_done(self) -> int:
        """The number of epochs that its folder records."""
        try:
            return (self.settings.run_path / "metrics.jsonl").read_bytes().count(b"\n")
        except OSError:
            return 0


def plan(
    datasets: Sequence[str], alignment: str, models: Sequence[str], seeds: Sequence[int], main_flags: Sequence[str],
    ablations: bool = False,
) -> tuple[list[Run], list[str]]:
    """The runs of a grid, and a line for each data file that they lack."""
    runs, missing = [], []
    switched = [(model, name, flags) for model in MODELS for name, (_, flags) in ablations_of(model).items()]
    for dataset in datasets:
        spec = find_spec(dataset)
        for aligned in ALIGNMENTS[alignment]:
            flags = ("--dataset", dataset, *(("--aligned",) if aligned else ()), *main_flags)
            settings, _ = resolve(parse_flags((*flags, "--model", models[0])))  # a preset may be of one model
            path = spec.file(settings.data_path, aligned)
            if not spec.make and not path.is_file():
                missing.append(missing_file_message(spec, path, settings.data_path, aligned))
                continue
            variants: list[tuple[str, ...]] = [("--model", model) for model in models]
            if ablations:
                variants += [("--model", model, "--name", name, *switch) for model, name, switch in switched]
            for seed in seeds:
                for variant in variants:
                    run_flags = (*flags, *variant, "--seed", str(seed))
                    runs.append(Run(run_flags, resolve(parse_flags(run_flags))[0]))
    return runs, missing


def fetch_missing(
    datasets: Sequence[str], alignment: str, models: Sequence[str], main_flags: Sequence[str]
) -> None:
    """Download the data files that the grid lacks; print which cannot be had, since the others can still run."""
    for model in models:  # a wrong name is told before hours of downloading, not after
        settings, _ = resolve(parse_flags((*main_flags, "--model", model)))
    try:
        download([find_spec(dataset) for dataset in datasets], settings.data_path, ALIGNMENTS[alignment])
    except UserError as error:
        print(f"# {error}", file=sys.stderr)
