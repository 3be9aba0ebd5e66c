#!/usr/bin/env bash
# The grid of run_all.sh as a SLURM job array, a run to a task. From the checkout, with run_all.sh's options behind it:
#     sbatch --array=0-89%8 --gres=gpu:1 src/grid/slurm_array.sh --datasets mosi mosei iemocap
# Ahead of the time limit a run writes its checkpoint and is queued again, to go on; so is one whose node is lost.
#SBATCH --job-name=grid
#SBATCH --output=slurm-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:-.}" || exit 2  # SLURM runs a copy of this file
if [[ ! -f run_all.sh || -z ${SLURM_ARRAY_TASK_ID:-} ]]; then
    echo "error: start this in the folder of run_all.sh by: sbatch --array=0-N src/grid/slurm_array.sh; N is the last index" \
        "that bash run_all.sh --dry_run prints" >&2
    exit 2
fi

time_is_up=
pass_on() { kill "-$1" "$run" 2>/dev/null; waiting=yes; }  # a signal ends `wait`, not the run
trap 'time_is_up=yes; pass_on USR1' USR1
trap 'pass_on TERM' TERM
bash run_all.sh --index "$SLURM_ARRAY_TASK_ID" "$@" &  # becomes main.py
run=$! waiting=yes
while [[ -n $waiting ]]; do
    waiting=
    wait "$run"; code=$?
done
if [[ -n $time_is_up && $code -gt 128 ]]; then  # a run that stops says 143; one that was still starting, 138
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
