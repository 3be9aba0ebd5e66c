#!/usr/bin/env bash
# Lints, type-checks and tests the project; arguments go to pytest, such as -m quick, -n 0 or a file.
set -euo pipefail
cd "$(dirname "$0")/.."
source src/environment.sh tests/requirements.txt

"$PYTHON" -m ruff check .
"$PYTHON" -m mypy
"$PYTHON" -m pytest -q -n auto --maxprocesses 8 --dist loadgroup "$@"
