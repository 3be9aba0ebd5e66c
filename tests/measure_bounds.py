"""What each hostile file of tests/hostile_files.py costs: `python tests/measure_bounds.py`, a table in Markdown.

Each file is of a megabyte, where its size matters, and each command runs in a process of its own.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

SIZE = 1 << 20  # bytes
SECONDS = 600  # after which a command counts as one that hangs
ROOT = Path(__file__).parents[1]
CHILD = """
import json, sys, time
from pathlib import Path
import main as training
from src.__main__ import run
from src.errors import run_command
started = time.process_time()
command, *arguments = json.loads(sys.argv[1])
code = training.main(arguments) if command == "train" else run_command(run, [command, *arguments])
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps([code, time.process_time() - started, int(peak.split()[1])]))
"""


def measure(command: list[str]) -> list[float]:
    """The exit code, the seconds of the processor, and the peak of memory in kB, of a command."""
    done = subprocess.run([sys.executable, "-c", CHILD, json.dumps(command)], cwd=ROOT, capture_output=True, text=True,
                          timeout=SECONDS, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the table."""
    sys.path.insert(0, str(ROOT))
    from tests.hostile_files import HOSTILE  # noqa: PLC0415

    print("| input | file | exit code | CPU | peak memory |\n| :-- | --: | --: | --: | --: |")
    for name, make in HOSTILE.items():
        with tempfile.TemporaryDirectory() as folder:
            command, _ = make(Path(folder), SIZE)
            size = max((path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()), default=0)
            code, cpu, peak = measure(command)
        print(f"| {name} | {size / 1e6:.2f} MB | {code} | {cpu:.1f} s | {peak / 1024:.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
