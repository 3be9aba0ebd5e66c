#!/usr/bin/env bash
# Trains a stock MulT and ours on the same data and compares them; `--help` lists the options.
set -euo pipefail
cd "$(dirname "$0")/.."
source src/environment.sh requirements.txt
exec "$PYTHON" -m patches.side_by_side "$@"
