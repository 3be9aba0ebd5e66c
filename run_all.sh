#!/usr/bin/env bash
# Trains every run of the comparison, then writes its tables and figures; `bash run_all.sh --help` lists the options.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by sh
set -euo pipefail
cd "$(dirname "$0")"
source src/environment.sh requirements.txt
exec "$PYTHON" -m src grid "$@"
