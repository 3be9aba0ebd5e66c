"""`python -m src predict RUN [RUN ...] FILE`: what finished runs answer for the clips of a file."""

import argparse
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import Parser, UserError, command
from src.files import write_whole
from src.predict.predictor import Predictions, load_model
from src.report.escapes import csv_text


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m src predict", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path,
                        help="folder of a finished run, or of a model: the mean over its seeds, and their spread")
    parser.add_argument("file", metavar="FILE", type=Path, help="a data file with any splits or none, labels or none, "
                        "or an .npz with text, audio, vision and perhaps id")
    parser.add_argument("--out", type=Path, help="a file to write: " + ", ".join(FORMATS) + " (default: the console)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    return parser.parse_args(argv)


def rows_of(predictions: Predictions) -> Iterator[dict[str, Any]]:
    """For each clip its id, its split if there are some, and each label with its number and spread."""
    columns = columns_of(predictions.labels)
    for i, name in enumerate(predictions.ids):
        row: dict[str, Any] = {"id": name}
        if any(predictions.splits):
            row["split"] = predictions.splits[i]
        for k, label in enumerate(columns):
            row[label] = shortest(predictions.values[i, k])
            if predictions.spread is not None:
                row[f"{label}_sd"] = shortest(predictions.spread[i, k])
        yield row


def columns_of(labels: Sequence[str]) -> list[str]:
    """The names of the labels' columns: the labels, or "0:id" and so on where one is the name of another column."""
    names = ["id", "split", *labels, *(f"{label}_sd" for label in labels)]
    return [label if len(set(names)) == len(names) else f"{k}:{label}" for k, label in enumerate(labels)]


def shortest(value: np.floating) -> float:
    """A number with the nine digits that float32 has."""
    return float(f"{value:.9g}")


def as_csv(predictions: Predictions) -> bytes:
    rows = list(rows_of(predictions))
    return csv_text([rows[0], *(row.values() for row in rows)]).encode("utf-8", "backslashreplace")


def as_json_lines(predictions: Predictions) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows_of(predictions)).encode()


def as_npz(predictions: Predictions) -> bytes:
    file = io.BytesIO()
    arrays: dict[str, Any] = {"ids": np.array(predictions.ids), "labels": np.array(predictions.labels)}
    if any(predictions.splits):
        arrays["splits"] = np.array(predictions.splits)
    if predictions.spread is not None:
        arrays["spread"] = predictions.spread
    np.savez(file, predictions=predictions.values, **arrays)
    return file.getvalue()


FORMATS = {".csv": as_csv, ".jsonl": as_json_lines, ".npz": as_npz}


@command
def main(argv: Sequence[str] | None) -> None:
    asked = parse_arguments(argv)
    if asked.out and asked.out.suffix.lower() not in FORMATS:
        raise UserError(f"--out {asked.out}: its ending says the format, one of {', '.join(FORMATS)}")
    if asked.out and not asked.out.absolute().parent.is_dir():
        raise UserError(f"--out {asked.out}: there is no folder {asked.out.parent}")
    if asked.out and asked.out.exists() and asked.file.exists() and asked.out.samefile(asked.file):
        raise UserError(f"--out {asked.out} is FILE; write to another one")
    model = load_model(*asked.runs, device=asked.device)
    predictions = model.predict_file(asked.file, shown=sys.stderr.isatty())
    for note in predictions.notes:
        print(f"# {note}", file=sys.stderr)
    names = ", ".join(predictions.labels)
    print(f"# {len(predictions)} clips, {predictions.kind} of {names}: "
          + (f"mean and standard deviation of {len(model.runs)} runs" if len(model.runs) > 1 else
             f"{model.runs[0].folder}"), file=sys.stderr)
    if asked.out:
        write_whole(asked.out, FORMATS[asked.out.suffix.lower()](predictions))
        print(f"# wrote {asked.out}", file=sys.stderr)
    else:
        sys.stdout.write(as_csv(predictions).decode())
