"""The streams of a RAVDESS clip: frames of its sound, action units of its face, the words of its sentence."""

import csv
from io import TextIOWrapper
from pathlib import Path

import numpy as np

from src.data.file_kinds import read_pickle
from src.errors import UserError, printable
from src.files import open_file

RATE, WINDOW, HOP = 22050, 2048, 1024  # samples a second, of a frame, and between frames
LONGEST = 600  # seconds of a clip
MELS = 40
PITCH = (65, 1000)  # Hz, the lowest and the highest
SENTENCES = {1: "kids are talking by the door", 2: "dogs are sitting by the door"}  # by their number in a clip's name
WORDS = sorted(set(" ".join(SENTENCES.values()).split()))
INTENSITIES = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)  # the action units of OpenFace
PRESENCES = tuple(sorted((*INTENSITIES, 28)))
ACTION_UNITS = (*(f"AU{unit:02}_r" for unit in INTENSITIES), *(f"AU{unit:02}_c" for unit in PRESENCES))
FACE_FILE = "au_mfcc.pkl"


def sound(path: Path, hop: int) -> np.ndarray:
    """Frames (T, MELS + 2): log-mel energies in dB, the pitch in octaves, 0 where there is none, and its probability.
    UserError where the file is no sound.
    """
    try:
        import librosa  # noqa: PLC0415, an optional extra
    except ImportError as error:
        raise UserError("librosa, which reads the sound, is not installed: pip install librosa") from error
    try:
        with open_file(path) as file:
            samples, _ = librosa.load(file, sr=RATE, duration=LONGEST)
        if len(samples) == LONGEST * RATE:
            raise UserError(f"{path} is longer than {LONGEST} s, and no clip is")
        mel = librosa.feature.melspectrogram(y=samples, sr=RATE, n_fft=WINDOW, hop_length=hop, n_mels=MELS)
        pitch, _, voiced = librosa.pyin(samples, fmin=PITCH[0], fmax=PITCH[1], sr=RATE, frame_length=WINDOW,
                                        hop_length=hop)
    except UserError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(f"{path} cannot be read as sound ({type(error).__name__}: {printable(error)[:200]}); get it "
                        "again") from error
    octaves = np.nan_to_num(np.log2(pitch / PITCH[0]))
    return np.column_stack([librosa.power_to_db(mel).T, octaves, voiced])


def words(sentence: int) -> np.ndarray:
    """The words of a sentence, (6, 8), one-hot: which sentence it is, and no meaning."""
    return np.eye(len(WORDS))[[WORDS.index(word) for word in SENTENCES[sentence].split()]]


def faces_of_clips(clone: Path) -> dict[str, np.ndarray]:
    """{name of a clip: mean action units (1, 35)} of the face repository, or of its pickle."""
    path = clone if clone.is_file() else clone / FACE_FILE
    try:
        with open_file(path) as file:
            content = read_pickle(file, path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; name a clone that has {FACE_FILE}") from error
    size = len(ACTION_UNITS)
    try:
        return {str(name): np.asarray(numbers[:size], dtype=float).reshape(1, size)
                for name, numbers in content.items()}
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path} is no dict of {size} action units or more by the name of a clip") from error


def face_frames(path: Path) -> np.ndarray:
    """The action units of each frame (T, 35) of a csv file of OpenFace; nan where it found no face.
    UserError where columns are missing.
    """
    try:
        with TextIOWrapper(open_file(path), "utf-8", newline="") as file:
            rows = csv.DictReader(file, skipinitialspace=True)
            if missing := {*ACTION_UNITS, "success"} - {*(rows.fieldnames or ())}:
                raise UserError(f"{path} has no column {min(missing)}; expected a csv file of OpenFace")
            frames = [[float(row[unit]) if float(row["success"]) else np.nan for unit in ACTION_UNITS] for row in rows]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path} is damaged: {printable(error)[:200]}; get it again") from error
    return np.array(frames).reshape(-1, len(ACTION_UNITS))
