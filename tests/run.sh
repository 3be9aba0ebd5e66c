#!/usr/bin/env bash
# Lints and tests the project; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source src/environment.sh tests/requirements.txt

"$PYTHON" -m ruff check .
"$PYTHON" -m pytest -q "$@"
