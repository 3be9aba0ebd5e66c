#!/usr/bin/env bash
# Trains every model on a data set, aligned and unaligned, and prints the comparison:
#     bash run_all.sh demo [SEED ...]
set -euo pipefail
cd "$(dirname "$0")"
dataset=${1:?"usage: bash run_all.sh DATASET [SEED ...], e.g. bash run_all.sh demo"}
shift
source src/environment.sh requirements.txt

for seed in "${@:-1111}"; do
    for alignment in "" --aligned; do
        for model in MulT MulT-FFL PMR; do
            "$PYTHON" main.py --model "$model" --dataset "$dataset" --seed "$seed" $alignment
        done
    done
done
"$PYTHON" -m src.tables --dataset "$dataset"
