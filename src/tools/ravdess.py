"""Make a data file of RAVDESS, acted speech of 24 actors, from clones of two public repositories:

    python -m src ravdess AUDIO_CLONE FACE_CLONE --out data/ravdess_data_noalign.pkl

AUDIO_CLONE has the recordings (github.com/DetectingHumanEmotion/detecting-human-emotion-webapp), FACE_CLONE the mean
action units of each clip's face (github.com/KangHyunWook/
Pytorch-implementation-of-Multimodal-emotion-recognition-on-RAVDESS-dataset). With --faces DIR in place of FACE_CLONE,
vision has every frame of the face tracking in DIR. A fold tests 4 of the actors and validates on 4 others.
"""

import os
import re
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from src.data.formats import MODALITY_KEYS, SPLITS, read_layout
from src.dataset import check_splits
from src.errors import Parser, UserError, command
from src.options import count
from src.tools.convert import spec_of_new, write
from src.tools.ravdess_features import HOP, face_frames, faces_of_clips, sound, words

CLIP = re.compile(r"\d\d-(01-(0[1-8])-\d\d-(0[12])-\d\d-([012]\d))")  # of speech: its emotion, its sentence, its actor
FOLDS, ACTORS = 6, 4  # actors of a fold's test split
FOUR = ((1, 2), (3,), (4,), (5,))  # neutral or calm, happy, sad, angry, by RAVDESS's numbers
LICENCE = ("The recordings are by S. R. Livingstone and F. A. Russo (zenodo.org/records/1188976), licence "
           "CC BY-NC-SA 4.0: name them, no commercial use, and the same licence for what you make of them.")


class Clip(NamedTuple):
    """A recording, as its name tells."""

    path: Path
    key: str  # of the clip in every medium
    emotion: int  # from 1, as in RAVDESS
    sentence: int
    actor: int  # from 1; women have even numbers


def find_clips(folder: Path, suffix: str) -> dict[str, Clip]:
    """The Clips of speech in a folder and those below it, by key and in its order; the first of each."""
    found: dict[str, Clip] = {}
    for path in sorted(folder.rglob(f"*{suffix}")):
        if match := CLIP.fullmatch(path.stem):
            found.setdefault(match[1], Clip(path, match[1], *map(int, match.groups()[1:])))
    if not found:
        raise UserError(f"{folder} has no {suffix} file of RAVDESS's speech, such as 03-01-05-01-02-01-16{suffix}")
    return dict(sorted(found.items()))


def split_of(clip: Clip, fold: int) -> str:
    """The split of a clip in a fold, 1 to FOLDS: an actor is tested in one and validates in the one before."""
    tested = (clip.actor - 1) // ACTORS + 1
    return "test" if tested == fold else "valid" if tested == fold % FOLDS + 1 else "train"


def labels_of(clips: Sequence[Clip], four: bool) -> np.ndarray:
    """The number of each clip's emotion from 0, (N, 1, 1), or no and yes to each of FOUR, (N, 4, 2)."""
    if four:
        return np.eye(2, dtype=np.float32)[[[int(clip.emotion in same) for same in FOUR] for clip in clips]]
    return np.array([clip.emotion - 1 for clip in clips], dtype=np.float32).reshape(-1, 1, 1)


def standardised(streams: Mapping[str, np.ndarray], train: Sequence[Clip]) -> dict[str, np.ndarray]:
    """The streams with mean 0 and deviation 1 of each feature over the steps of train; 0 where a step is nan."""
    steps = np.concatenate([streams[clip.key] for clip in train])
    mean, deviation = np.nanmean(steps, axis=0), np.nanstd(steps, axis=0)
    deviation[~(deviation > 0)] = 1
    return {key: np.nan_to_num((stream - mean) / deviation) for key, stream in streams.items()}


def padded(streams: Sequence[np.ndarray], steps: int) -> np.ndarray:
    """Streams (t, d) as one array (N, steps, d) of float16, with zeros in front."""
    array = np.zeros((len(streams), steps, streams[0].shape[1]), dtype=np.float16)
    for row, stream in zip(array, streams, strict=True):
        row[steps - len(stream):] = stream
    return array


def make_splits(clips: Sequence[Clip], streams: Mapping[str, Mapping[str, np.ndarray]], fold: int,
                four: bool) -> dict[str, dict[str, np.ndarray]]:
    """The dict of a data file of one fold, of streams (t, d) by modality key and clip."""
    of_split = {split: [clip for clip in clips if split_of(clip, fold) == split] for split in SPLITS}
    if empty := [split for split, its_clips in of_split.items() if not its_clips]:
        raise UserError(f"fold {fold} has no clip in {empty[0]}: the actors of that split are missing")
    scaled = {key: streams[key] if key == "text" else standardised(streams[key], of_split["train"]) for key in streams}
    longest = {key: max(map(len, by_clip.values())) for key, by_clip in streams.items()}
    return {
        split: {key: padded([scaled[key][clip.key] for clip in its_clips], longest[key]) for key in MODALITY_KEYS}
        | {"labels": labels_of(its_clips, four), "id": np.array([clip.path.stem for clip in its_clips])}
        for split, its_clips in of_split.items()
    }


def read_faces(arguments: Namespace) -> dict[str, np.ndarray]:
    """The action units (t, 35) of each clip, by key."""
    if arguments.faces:
        return {key: face_frames(clip.path) for key, clip in find_clips(arguments.faces, ".csv").items()}
    named = faces_of_clips(arguments.face_clone).items()
    return {match[1]: units for name, units in named if (match := CLIP.fullmatch(name))}


def read_streams(arguments: Namespace, told: Counter) -> tuple[list[Clip], dict[str, dict[str, np.ndarray]]]:
    """The clips that have a sound and a face, and their streams, by modality key and clip."""
    recordings, faces = find_clips(arguments.audio_clone, ".wav"), read_faces(arguments)
    clips = [clip for key, clip in recordings.items() if key in faces]
    if not clips:
        raise UserError(f"no recording in {arguments.audio_clone} has a face: are both of RAVDESS?")
    told["left out: recordings without a face"] = len(recordings) - len(clips)
    told["left out: faces without a recording"] = len(faces.keys() - recordings.keys())
    told["frames without a face, left empty"] = sum(int(np.isnan(faces[clip.key]).any(1).sum()) for clip in clips)
    jobs = Parallel(n_jobs=arguments.jobs, return_as="generator")(
        delayed(sound)(clip.path, arguments.hop) for clip in clips)
    sounds = list(tqdm(jobs, total=len(clips), unit="clip", disable=not sys.stderr.isatty()))
    return clips, {
        "text": {clip.key: words(clip.sentence) for clip in clips},
        "audio": {clip.key: frames for clip, frames in zip(clips, sounds, strict=True)},
        "vision": {clip.key: faces[clip.key] for clip in clips},
    }


def make_parser() -> ArgumentParser:
    parser = Parser(prog="python -m src ravdess", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("audio_clone", type=Path, metavar="AUDIO_CLONE", help="folder of the recordings (wav)")
    parser.add_argument("face_clone", type=Path, metavar="FACE_CLONE", nargs="?",
                        help="folder of au_mfcc.pkl, or that file")
    parser.add_argument("--faces", type=Path, metavar="DIR",
                        help="in place of FACE_CLONE: folder of the csv files of zenodo.org/records/3255102")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE",
                        help="NAME_data_noalign.pkl in some folder; of --fold all, in its folders fold1 to fold6")
    parser.add_argument("--fold", choices=[*map(str, range(1, FOLDS + 1)), "all"], default="1",
                        help="whose actors are tested: fold 1 tests actors 1 to 4 (default: 1)")
    parser.add_argument("--emotions", action="store_true",
                        help="yes or no to neutral or calm, happy, sad and angry, as in IEMOCAP, in place of one of "
                             "the eight emotions")
    parser.add_argument("--hop", type=count(1), default=HOP, metavar="SAMPLES",
                        help=f"between frames of the sound, at 22050 a second (default: {HOP}, 46 ms)")
    parser.add_argument("--jobs", type=count(1), default=os.cpu_count() or 1, help="processes (default: one a core)")
    return parser


@command
def main(argv: Sequence[str] | None) -> None:
    arguments = make_parser().parse_args(argv)
    if (arguments.face_clone is None) == (arguments.faces is None):
        raise UserError("the faces are missing or given twice; give FACE_CLONE or --faces DIR")
    out = arguments.out
    folds = range(1, FOLDS + 1) if arguments.fold == "all" else [int(arguments.fold)]
    files = {fold: out.parent / f"fold{fold}" / out.name if arguments.fold == "all" else out for fold in folds}
    specs = {fold: spec_of_new(path, aligned=False) for fold, path in files.items()}
    told: Counter = Counter()
    clips, streams = read_streams(arguments, told)
    print(LICENCE)
    print("The text says which of the two sentences is spoken, and has no other content.")
    for what, number in (+told).items():  # those above 0
        print(f"{what}: {number}")
    for fold, path in files.items():
        splits = make_splits(clips, streams, fold, arguments.emotions)
        check_splits(read_layout(splits, path)[1], specs[fold], False, path)
        write(splits, path)
        sizes = ", ".join(f"{split} {len(arrays['id'])}" for split, arrays in splits.items())
        print(f"fold {fold}: {sizes} clips; {path} is written: python main.py --dataset {specs[fold].name} "
              f"--data_path {path.parent}")
