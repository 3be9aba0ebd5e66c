"""Whether a folder holds the run that is asked for, so that it can be skipped or resumed."""

from pathlib import Path
from typing import Any

from src.errors import UserError, printable
from src.runs.result import difference_of_settings
from src.runs.run_folder import APPENDED, check_numbers, load_last, read_result

LAST = {"config": dict, "state": dict, "sizes": dict, "seconds": float}  # what last.pt holds
DATA = ("input_dims", "input_lens", "data")  # entries of config.json that the data set decides
JUST_FINISHED = "another process has just finished"  # of the message where the run is not to be resumed any more
ADVICE = "give what it has, or start afresh with another --results_dir or after deleting it"


def is_finished(path: Path, settings: Any) -> bool:
    """Whether a folder holds a result of these Settings; UserError where it holds one of others, or one that this
    version would not compute.
    """
    result = read_result(path)
    if result and (difference := difference_of_settings(result, {"settings": settings.recorded()})):
        raise UserError(f"{path} holds a run of other settings ({difference}: there and asked for); {ADVICE}")
    if result:
        check_numbers(result, settings.recorded(), path / "result.json")
    return result is not None


def unfinished(path: Path, config: dict) -> dict | None:
    """The content of a folder's last.pt, None where there is none. UserError where it belongs to another run, or the
    run is finished.
    """
    if read_result(path):
        raise UserError(f"{JUST_FINISHED} {path}: nothing to do")
    last = load_last(path)
    if last is None:
        return None
    try:
        there = last["config"]
        kinds = [isinstance(last[name], kind) for name, kind in LAST.items()]
        if not all([*kinds, isinstance(there["environment"], dict)]) or set(last["sizes"]) != set(APPENDED):
            raise TypeError("it has other contents")
        difference = difference_of_runs(there, config)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}/last.pt was written by another version of this code; leave out --resume") from error
    if difference:
        raise UserError(f"{path} holds another run, unfinished ({difference}: there and asked for); {ADVICE}")
    check_numbers(last, config["settings"], path / "last.pt")
    return last


def difference_of_runs(there: dict, here: dict) -> str:
    """'lr is 0.1 and 0.2', for the settings and data that differ between two contents of config.json, or ''."""
    differences = [difference_of_settings(there, here)]
    differences += [f"{key} is {there[key]} and {here[key]}" for key in DATA if there[key] != here[key]]
    return printable(", ".join(filter(None, differences)))


def differences_of_environment(there: dict, here: dict) -> list[str]:
    """'torch is 2.6.0 and 2.13.0', for all that can change the last bits of a number, or dropout's draws."""
    there = {"processes": 1, **there}  # old runs do not record it
    pairs = {name: (there.get(name), value) for name, value in here.items()}
    return [f"{name} is {printable(before)} and {now}" for name, (before, now) in pairs.items() if before != now]
