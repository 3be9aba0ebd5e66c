"""The data sets: the published settings and the file names of each.

NAME_data.pkl holds word-aligned sequences, NAME_data_noalign.pkl unaligned ones.
"""

import json
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from src.data.demo import make_demo
from src.data.study import STUDY
from src.errors import UserError
from src.tasks import (
    Classification,
    EmotionClassification,
    ScoresRegression,
    SentimentRegression,
    Task,
    UnitSentimentRegression,
)

CLUSTER = r"^(.*?)(?:\||\$_\$)"  # the video: the first field of MulT's ids, or what stands before $_$ in MMSA's
SOURCES = Path(__file__).parent / "sources.json"
MULT_NAME = re.compile(r"(.+)_data(_noalign)?\.pkl", re.IGNORECASE)
MMSA_NAME = re.compile(r"(un)?aligned(?:_(\d+))?(?:-\d+)?\.pkl|features?\.pkl", re.IGNORECASE)  # copies have -NUMBER
UNALIGNED, ALIGNED = re.compile("(un|non?|not)[-_ ]?align", re.IGNORECASE), re.compile("align", re.IGNORECASE)
MMSA_FOLDER = "https://drive.google.com/drive/folders/1A2S4pqCHryGmiqnNSPLv7rEg63WvjCSk"


@dataclass(frozen=True)
class DatasetSpec:
    """The facts of a data set that are known before its file is read."""

    name: str  # of its results folder
    stem: str  # of its files: {stem}_data.pkl and {stem}_data_noalign.pkl
    task: Any = None  # None: the labels show it
    paper: dict[str, Any] = field(default_factory=dict)  # the settings it was published with, by flag
    paper_source: str = ""
    size: dict[str, Any] = field(default_factory=dict)  # more of them, which every model takes before its own defaults
    cluster: str = CLUSTER  # the first group names the samples of an id that statistics draw together
    make: Callable | None = None  # makes it in memory, in place of a file
    mmsa_folder: str | None = None  # of MMSA's data, which holds its files in Processed/
    mmsa_steps: int = 50  # the number in their names
    mmsa_sha256: tuple[str, ...] = ()  # of those files, from MMSA's README; their names do not show the data set
    other_files: tuple[tuple[bool, str], ...] = ()  # further names of its files: whether aligned, and the name
    other_tasks: tuple[Task, ...] = ()  # of other label sets of it; the labels show which
    labels_source: str = ""  # of the names of labels and their order
    made_by: str = ""  # the command that makes its unaligned file

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that its files are known to have, none for an unknown data set."""
        return ((self.task,) if self.task else ()) + self.other_tasks

    @property
    def known_by(self) -> str:
        """Its name, and the source of its label names."""
        return self.name + (f", by {self.labels_source}" if self.labels_source else "")

    def file(self, data_path: str | Path, aligned: bool) -> Path:
        """The path of its pickle: `data_path` itself if that is a file, else MulT's file or MMSA's, whichever is there;
        MulT's if none is.
        """
        folder = Path(data_path)
        if os.path.isfile(folder):
            return folder
        candidates = [folder / name for name in self.names(aligned)]
        return next(filter(os.path.isfile, candidates), candidates[0])

    def names(self, aligned: bool) -> list[str]:
        """The names that its pickle may have in a data folder: MulT's, then MMSA's."""
        names = [f"{self.stem}_data{'' if aligned else '_noalign'}.pkl"]
        if self.mmsa_folder:
            name = f"{'' if aligned else 'un'}aligned_{self.mmsa_steps}.pkl"
            names += [name, f"{self.mmsa_folder}/Processed/{name}"]
        return names + [name for its_aligned, name in self.other_files if its_aligned == aligned]


def table_5(**row: Any) -> dict[str, Any]:
    """A row of MulT's Table 5 as flags. Its "crossmodal attention block dropout" is `attn_dropout` there; that it
    also sets relu_dropout and res_dropout, the two other dropouts of a block, is our reading.
    """
    block = row.pop("block_dropout")
    shared = {"embed_dim": 40, "nlevels": 4, "kernel_a": 3, "kernel_v": 3, "out_dropout": 0.1}
    return {**shared, "attn_dropout": block, "relu_dropout": block, "res_dropout": block, **row}


MOSEI_EMOTIONS = ("happy", "sad", "anger", "surprise", "disgust", "fear")  # in the SDK's order
MELD_EMOTIONS = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
IEMOCAP_CLASSES = ("happy", "sad", "neutral", "angry", "excited", "frustrated")
RAVDESS_EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
HUMOR, SARCASM = ("not humorous", "humorous"), ("not sarcastic", "sarcastic")

DEMO = DatasetSpec(
    "demo", "demo", SentimentRegression(),
    {"batch_size": 32, "lr": 2e-3, "embed_dropout": 0.0, "attn_dropout": 0.0, "relu_dropout": 0.0, "res_dropout": 0.0,
     "clip": 1.0, "num_epochs": 15},
    "this project's choice for its demo", size={"embed_dim": 24, "num_heads": 4, "nlevels": 2}, make=make_demo,
)
STUDIED = tuple(replace(DEMO, name=studied.name, stem=studied.name, make=studied.make,
                        paper=DEMO.paper | {"num_epochs": 7}) for studied in STUDY)

KNOWN = (
    DatasetSpec(
        "mosi", "mosi", SentimentRegression(),
        table_5(batch_size=128, lr=1e-3, num_heads=10, kernel_l=1, embed_dropout=0.2, block_dropout=0.2, clip=0.8,
                num_epochs=100),
        "MulT Table 5, MOSI; kernel_l is 1 or 3 there",
        mmsa_folder="MOSI",
        mmsa_sha256=("d3994fd25681f9c7ad6e9c6596a6fe9b4beb85ff7d478ba978b124139002e5f9",
                     "78e0f8b5ef8ff71558e7307848fc1fa929ecb078203f565ab22b9daab2e02524"),
    ),
    DatasetSpec(
        "mosei", "mosei_senti", SentimentRegression(),
        table_5(batch_size=16, lr=1e-3, num_heads=8, kernel_l=1, embed_dropout=0.3, block_dropout=0.1, clip=1.0,
                num_epochs=20),
        "MulT Table 5, MOSEI; kernel_l is 1 or 3 there",
        mmsa_folder="MOSEI", other_files=((True, "mosei_raw.pkl"),),
        other_tasks=(EmotionClassification(MOSEI_EMOTIONS), ScoresRegression(("sentiment", *MOSEI_EMOTIONS)),
                     ScoresRegression(MOSEI_EMOTIONS)),
        labels_source="the README of CMU-MultimodalSDK, CMU_MOSEI; of another order give --label_names",
        mmsa_sha256=("45eccfb748a87c80ecab9bfac29582e7b1466bf6605ff29d3b338a75120bf791",
                     "ad8b23d50557045e7d47959ce6c5b955d8d983f2979c7d9b7b9226f6dd6fec1f"),
    ),
    DatasetSpec(
        "iemocap", "iemocap", EmotionClassification(),
        table_5(batch_size=32, lr=2e-3, num_heads=10, kernel_l=3, kernel_a=5, embed_dropout=0.3, block_dropout=0.25,
                clip=0.8, num_epochs=30),
        "MulT Table 5, IEMOCAP",
        other_tasks=(Classification(IEMOCAP_CLASSES),),
        labels_source="MulT (yes/no emotions) and conv-emotion's DialogueRNN (six classes); of another order give "
                      "--label_names",
    ),
    DatasetSpec(
        "sims", "sims", UnitSentimentRegression(),
        mmsa_folder="SIMS", mmsa_steps=39,
        mmsa_sha256=("c9e20c13ec0454d98bb9c1e520e490c75146bfa2dfeeea78d84de047dbdd442f",),
    ),
    DatasetSpec("simsv2", "simsv2", UnitSentimentRegression(), labels_source="thuiar/ch-sims-v2: -1 to 1",
                other_files=((False, "SIMSv2/Processed/sims_unaligned.pkl"),)),
    DatasetSpec("meld", "meld", Classification(MELD_EMOTIONS),
                other_tasks=(Classification(("neutral", "positive", "negative")),),
                labels_source="the README of declare-lab/MELD; of another order give --label_names"),
    DatasetSpec("ur_funny", "humor", Classification(HUMOR), labels_source="the README of ROC-HCI/UR-FUNNY",
                other_files=((True, "humor.pkl"),)),
    DatasetSpec("mustard", "sarcasm", Classification(SARCASM, (-1, 1)), other_tasks=(Classification(SARCASM),),
                labels_source="MultiBench's loader, get_data.py: above 0 is sarcastic",
                other_files=((True, "sarcasm.pkl"),)),
    DatasetSpec("ravdess", "ravdess", Classification(RAVDESS_EMOTIONS), other_tasks=(EmotionClassification(),),
                cluster=r"^(?:\d+-)+(\d+)",  # the actor: the last number of the first field
                labels_source="zenodo.org/records/1188976; Neutral is neutral or calm",
                made_by="python -m src ravdess"),
    DEMO,
)


def find_spec(name: str) -> DatasetSpec:
    """The spec of a data set: a known one by its name or file stem in any case, else one that its file name makes."""
    for spec in (*KNOWN, *STUDIED):
        if name.strip().lower() in (spec.name, spec.stem):
            return spec
    if file := MULT_NAME.fullmatch(Path(name).name):
        advice = f"--dataset {file[1]}{'' if file[2] else ' --aligned'}, and its folder by --data_path"
        raise UserError(f"--dataset {name!r} is the name of a file; give {advice}")
    if Path(name).name != name or name in ("", ".", ".."):
        raise UserError(f"--dataset {name!r} is not a name; give NAME of NAME_data.pkl, and its folder by --data_path")
    return DatasetSpec(name, name)


def is_known(spec: DatasetSpec) -> bool:
    """Whether it is one of KNOWN, and not one that its file's name makes."""
    return spec in KNOWN


def told_by_path(path: str | Path) -> tuple[DatasetSpec | None, bool | None]:
    """The spec of the data set that a file's path names, and whether it is aligned; None for what it leaves open.

    MulT's name tells both. MMSA's tells the alignment, and the folder above its Processed/ the data set.
    """
    path = Path(path).absolute()
    if match := MULT_NAME.fullmatch(path.name):
        return find_spec(match[1]), match[2] is None
    aligned = False if UNALIGNED.search(path.name) else True if ALIGNED.search(path.name) else None
    folders = list(path.parts[:-1])
    in_tree = False
    while folders and folders[-1].lower() in ("processed", "features"):
        in_tree |= folders.pop().lower() == "processed"
    match = MMSA_NAME.fullmatch(path.name)
    if folders and (in_tree or match):
        if spec := known_by_folder(folders[-1]):
            return spec, aligned
        if in_tree:
            return DatasetSpec(folders[-1], folders[-1]), aligned
    of_name = [spec for spec in KNOWN if match and spec.mmsa_folder and str(spec.mmsa_steps) == match[2]]
    return of_name[0] if len(of_name) == 1 else None, aligned


def known_by_folder(folder: str) -> DatasetSpec | None:
    """The known data set after which people call a folder so, as MOSI, CMU-MOSI or ch_sims."""
    name = re.sub("^(cmu|ch)", "", re.sub("[^a-z0-9]", "", folder.lower()))
    return next((s for s in KNOWN if not s.make and name in (s.name, s.stem, (s.mmsa_folder or "").lower())), None)


def hinted_by_name(path: str | Path) -> DatasetSpec | None:
    """The one known data set whose name is a word of a file's name, as mosi_bert.pkl, or None."""
    words = re.split("[^a-z0-9]+", Path(path).stem.lower())
    hinted = [spec for spec in KNOWN if not spec.make and spec.name in words]
    return hinted[0] if len(hinted) == 1 else None


def owner_of(sha256: str | None) -> DatasetSpec | None:
    """The spec of the data set of a published file with this SHA-256, or None."""
    files = json.loads(SOURCES.read_bytes())["files"]
    of_mult = {facts["sha256"]: told_by_path(name)[0] for name, facts in files.items() if facts["sha256"]}
    return next((spec for spec in KNOWN if sha256 in spec.mmsa_sha256), of_mult.get(sha256))


def find_file(spec: DatasetSpec, data_path: str | Path, aligned: bool) -> Path:
    """The path of a data set's file; UserError where it is not there."""
    path = spec.file(data_path, aligned)
    try:
        if not path.is_file():
            raise UserError(missing_file_message(spec, path, data_path, aligned))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return path


def missing_file_message(spec: DatasetSpec, path: Path, data_path: str | Path, aligned: bool) -> str:
    other = spec.file(data_path, not aligned)
    fetch = (f"python -m src download --dataset {spec.name} --data_path {shlex.quote(str(data_path))} fetches it, and "
             "so does --download") if spec.paper else ""
    if other.is_file():
        use = f"{path} is missing, but {other.name} is there: {'leave out' if aligned else 'add'} --aligned to use it"
        return f"{use}; {fetch}" if fetch else use
    if spec.mmsa_folder and not spec.paper:
        name = f"{spec.mmsa_folder}/Processed/unaligned_{spec.mmsa_steps}.pkl"
        return f"{path} is missing: get {name} of MMSA's data at {MMSA_FOLDER} and put it into {data_path}"
    if fetch:
        return f"{path} is missing: {fetch}"
    if spec.made_by:
        return f"{path} is missing: {spec.made_by} makes it"
    known = ", ".join(known.name for known in KNOWN)
    return f"{path} is missing: put it there, name its folder by --data_path, or use a known data set ({known})"
