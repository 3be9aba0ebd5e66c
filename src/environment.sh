# Sourced with a requirements file as argument: sets PYTHON to an interpreter that has what the file names (any
# version of it, torch from 2.6), and makes .venv, with the tested versions, where there is none.

environment_fits() {  # INTERPRETER REQUIREMENTS
    "$1" - "$2" 2>/dev/null <<'PYTHON'
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def names(path):
    for line in path.read_text().split("\n"):
        if line.startswith("-r "):
            yield from names(path.parent / line[3:])
        elif line:
            yield line.split("==")[0]


try:
    versions = {name: version(name) for name in names(Path(sys.argv[1]))}
except PackageNotFoundError:
    sys.exit(1)
sys.exit(sys.version_info < (3, 11) or tuple(map(int, versions["torch"].split(".")[:2])) < (2, 6))
PYTHON
}

for PYTHON in "${VIRTUAL_ENV:-none}/bin/python" python3 .venv/bin/python; do
    environment_fits "$PYTHON" "$1" && return
done
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: python3 is missing or older than 3.11; install Python 3.11 or newer" >&2
    exit 2
fi
PYTHON=.venv/bin/python
echo "# Setting up .venv from $1 (once; torch is a large download)" >&2
python3 -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$1"
