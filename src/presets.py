"""The file that a search for settings leaves, for `main.py --preset FILE`.

    {"format": 2, "model", "dataset", "aligned", "protocol",     the model and data that the settings were found for
     "settings": {...},                                          those that decide the model and its training
     "found_by": {"command", "seeds", "trials": {"complete", "pruned", "failed"}, "seconds", ...}}
"""

import json
from pathlib import Path
from typing import Any

from src.errors import UserError, printable
from src.files import read_text, write_whole
from src.runs.result import is_count, is_flag, is_number, is_record, is_text
from src.runs.run_folder import as_trained
from src.sealed import seal, unseal

FORMAT = 2  # 1 is of the time of runs of format 2
OUTCOMES = ("complete", "pruned", "failed")  # of a trial


def write_preset(path: Path, content: dict[str, Any]) -> None:
    """Write a preset's file, whole or not at all."""
    write_whole(path, json.dumps(seal({"format": FORMAT, **content}), indent=2).encode() + b"\n")


def read_preset(path: str | Path) -> dict[str, Any]:
    """The content of a preset's file; UserError where there is none, or a damaged one. Its settings are not checked.
    """
    path = Path(path)
    try:
        content = unseal(json.loads(read_text(path)))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"--preset {printable(path)} is neither paper nor stock, and no file either") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as a preset: {printable(error)}") from error
    if not (isinstance(content, dict) and is_count(content.get("format")) and is_preset(content)):
        raise UserError(f"{path} is damaged or no preset: python -m src tune writes one")
    if content["format"] not in range(1, FORMAT + 1):
        raise UserError(f"{path} has format {content['format']}; this version reads 1 to {FORMAT}")
    of_then = as_trained({"settings": {"model": content["model"], **content["settings"]}}, content["format"] + 1)
    del of_then["settings"]["model"]
    return content | of_then


def is_preset(content: dict[str, Any]) -> bool:
    found_by: Any = content.get("found_by")
    return (
        is_text(content.get("model")) and is_text(content.get("dataset")) and is_flag(content.get("aligned"))
        and is_record(content.get("settings")) and is_record(found_by)
        and isinstance(found_by.get("seeds"), list) and is_number(found_by.get("seconds"))
        and is_record(found_by.get("trials")) and all(is_count(found_by["trials"].get(state)) for state in OUTCOMES)
    )


def search_cost(content: dict[str, Any]) -> str:
    """'20 trials x 3 seeds on validation of demo, aligned, 0.4 hours', for the tables."""
    found_by = content["found_by"]
    trials, seeds = sum(found_by["trials"][state] for state in OUTCOMES), len(found_by["seeds"])
    where = f"{content['dataset']}, {'aligned' if content['aligned'] else 'unaligned'}"
    return (
        f"{trials} trial{'s' * (trials != 1)} x {seeds} seed{'s' * (seeds != 1)} on validation of {where}, "
        f"{found_by['seconds'] / 3600:.2g} hours"
    )
