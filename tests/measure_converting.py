"""The cost of packing word-aligned data: seconds and peak memory of `python -m src convert --aligned`.

    python -m tests.measure_converting --share 0.1 --folder /somewhere/with/room

makes computational sequences of this share of CMU-MOSEI's size (3293 videos of 70 s with 7 labelled segments; words of
0.35 s with 300 features, audio at 100 Hz with 74, vision at 30 Hz with 35, with gzip) in the folder, packs them in a
process of its own, prints one line, and takes everything away again. The whole size needs 7 GB on disk.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

VIDEOS, SEGMENTS = 3293, 7
STREAMS = {"audio": (100, 74), "vision": (30, 35)}  # steps a second, features
PACK = """
import resource, sys, time
from src.tools.convert import main
start = time.time()
code = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print(f"exit code {code}: {time.time() - start:.0f} s of wall clock, "
      f"{used.ru_utime + used.ru_stime:.0f} s of processor, "
      f"peak memory {used.ru_maxrss / 1e6:.2f} GB")
"""


def make(folder: Path, share: float) -> None:
    """Write the sequences and their folds."""
    rng = np.random.default_rng(0)
    videos = [f"v{i:05d}" for i in range(max(10, int(VIDEOS * share)))]
    noise = rng.standard_normal((20000, 300)).astype(np.float32).round(2)
    files = {name: h5py.File(folder / f"{name}.csd", "w") for name in ("text", *STREAMS, "All Labels")}

    def put(name: str, video: str, features: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
        entry = files[name].create_group(f"{name}/data/{video}")
        for key, array in (("features", features), ("intervals", np.stack([starts, ends], axis=1))):
            entry.create_dataset(key, data=array, compression="gzip", compression_opts=1)

    for video in videos:
        seconds = rng.uniform(30, 110)
        times = np.cumsum(rng.uniform(0.1, 0.6, 1200))
        times = times[times < seconds]
        put("text", video, noise[:len(times) - 1], times[:-1], times[1:])
        for name, (rate, width) in STREAMS.items():
            starts = np.arange(int(seconds * rate)) / rate
            put(name, video, noise[:len(starts), :width], starts, starts + 1 / rate)
        borders = np.linspace(0, seconds, SEGMENTS + 1)
        put("All Labels", video, rng.normal(size=(SEGMENTS, 7)).clip(-3, 3), borders[:-1], borders[1:])
    for file in files.values():
        file.close()
    first, second = len(videos) * 7 // 10, len(videos) * 8 // 10
    folds = {"train": videos[:first], "valid": videos[first:second], "test": videos[second:]}
    (folder / "folds.json").write_text(json.dumps(folds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--share", type=float, default=0.1, help="of CMU-MOSEI's videos (default: %(default)s)")
    parser.add_argument("--folder", default=None, help="where the files are made (default: a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        make(folder, arguments.share)
        files = [part for key in ("text", "audio", "vision") for part in (f"--{key}", str(folder / f"{key}.csd"))]
        command = [sys.executable, "-c", PACK, *files, "--labels", str(folder / "All Labels.csd"), "--folds",
                   str(folder / "folds.json"), "--out", str(folder / "made_up_data.pkl"), "--aligned"]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
