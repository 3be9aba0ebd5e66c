"""Which videos of a data set are train, valid and test: a published list, as JSON or as CMU-MultimodalSDK has it."""

import ast
import json
from collections import Counter
from pathlib import Path

from src.data.formats import SPLITS
from src.errors import UserError, printable


def read_folds(path):
    """{split: ids of videos} of a JSON file, or of a module of the SDK, of which nothing is run. UserError where they
    are missing, or where splits share a video.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        folds = standard_folds(text) if Path(path).suffix == ".py" else json.loads(text)
        folds = {split: list(dict.fromkeys(check_ids(folds[split]))) for split in SPLITS}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise UserError(
            f'{path} holds no folds; expected JSON like {{"train": [ids of videos], "valid": [...], "test": [...]}} or '
            "the SDK's module with standard_train_fold, standard_valid_fold and standard_test_fold"
        ) from error
    times = Counter(video for videos in folds.values() for video in videos)
    if shared := sorted(video for video, n in times.items() if n > 1):
        raise UserError(
            f"{path} has {len(shared)} videos in more than one split, as {printable(shared[0])}; keep each in one"
        )
    return folds


def check_ids(videos):
    """The list, if it is one of texts; TypeError else."""
    if not isinstance(videos, list) or not all(isinstance(video, str) for video in videos):
        raise TypeError("not a list of ids")
    return videos


def standard_folds(source):
    """The folds that a module such as the SDK's cmu_mosei_std_folds.py assigns as plain lists."""
    assigned = {
        node.targets[0].id: node.value for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    return {split: ast.literal_eval(assigned[f"standard_{split}_fold"]) for split in SPLITS}
