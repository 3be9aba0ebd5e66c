"""What reading a large data file costs: seconds and peak memory, each step in a process of its own.

    python -m tests.measure_reading --gigabytes 4 --folder /somewhere/with/room

makes a pickle of arrays of that size, with the shapes and types of unaligned MOSEI (float64, 50 x 300, 500 x 74,
500 x 35), in the folder, reads it in each of the ways below, prints a Markdown table, and takes everything away again.
It needs room for one and a half times the size on disk, and for twice the size in memory, where it makes the file.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

MAKE = """
import pickle, numpy
sizes = {"text": (50, 300), "audio": (500, 74), "vision": (500, 35)}
per_sample = 8 * sum(steps * width for steps, width in sizes.values())
random = numpy.random.default_rng(0)
def split(samples):
    arrays = {key: numpy.resize(random.normal(size=(64, *size)), (samples, *size)) for key, size in sizes.items()}
    return {**arrays, "labels": random.uniform(-3, 3, (samples, 1, 1)),
            "id": numpy.array([(f"video{i}", "0.5", "1.25") for i in range(samples)], dtype=object)}
samples = int(GIGABYTES * 1e9 / per_sample)
shares = {"train": samples * 7 // 10, "valid": samples // 10, "test": samples * 2 // 10}
with open("mosei_senti_data_noalign.pkl", "wb") as file:
    pickle.dump({name: split(share) for name, share in shares.items()}, file, PROTOCOL)
"""
STEPS = {  # code by what it measures
    "plain `pickle.load`, then `astype(float32)`": """
import pickle, numpy, torch
start = time.time()
with open("mosei_senti_data_noalign.pkl", "rb") as file:
    raw = pickle.load(file)
data = [arrays[key].astype(numpy.float32) for arrays in raw.values() for key in ("text", "audio", "vision")]
""",
    "first use: converts, caches": """
from src.data.specs import find_spec
from src.dataset import load_dataset
start = time.time()
data = load_dataset(find_spec("mosei"), ".")
""",
    "every later use": """
from src.data.specs import find_spec
from src.dataset import load_dataset
start = time.time()
data = load_dataset(find_spec("mosei"), ".")
""",
    "later use, and 100 batches of 16": """
import torch
from src.data.specs import find_spec
from src.dataset import load_dataset
start = time.time()
train = load_dataset(find_spec("mosei"), ".").splits["train"]
for indices in torch.randperm(len(train))[:1600].split(16):
    train.batch(indices)
""",
    "without room for a cache: in memory": """
import os
from src.data.specs import find_spec
from src.dataset import load_dataset
start = time.time()
data = load_dataset(find_spec("mosei"), ".", cache_dir=os.devnull)
""",
    "the imports alone": """
from src.data.specs import find_spec
from src.dataset import load_dataset
start = time.time()
""",
}
ENDING = """
print(json.dumps([time.time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


def run(code, folder):
    """What a fresh Python prints that runs the code in a folder."""
    setup = f"import sys; sys.path.insert(0, {str(Path(__file__).resolve().parents[1])!r})\n"
    return subprocess.run([sys.executable, "-c", setup + code], cwd=folder, check=True, capture_output=True,
                          text=True).stdout


def main():
    """Make the file, take each step, print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.measure_reading", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--protocol", type=int, default=4, help="of the pickle")
    parser.add_argument("--folder", default=None, help="where the file is made (default: the system's temporary one)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        run(f"GIGABYTES, PROTOCOL = {arguments.gigabytes}, {arguments.protocol}\n" + MAKE, folder)
        size = (Path(folder) / "mosei_senti_data_noalign.pkl").stat().st_size
        print(f"| a pickle of {size / 1e9:.2f} GB | seconds | peak memory | of the pickle |\n|---|---|---|---|")
        for title, code in STEPS.items():
            seconds, peak = json.loads(run("import json, resource, time\n" + code + ENDING, folder))
            print(f"| {title} | {seconds:.2f} | {peak / 1e9:.2f} GB | {peak / size:.2f} |", flush=True)


if __name__ == "__main__":
    main()
