#!/usr/bin/env bash
# `accelerate launch --cpu --num_processes 2` starts one process, and says nothing of it.
#
# Expected: two processes, as it says, or an error.
# Seen with accelerate 1.15.0, torch 2.13.0: a single process runs, with no RANK or WORLD_SIZE, so that a training takes
# twice the steps that it would in two. With --multi_gpu the two are started, on a machine without a GPU too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 numpy==2.4.6 accelerate==1.15.0
cd "$folder"
cat > who.py <<'PY'
import os

print(f"process {os.environ.get('RANK')} of {os.environ.get('WORLD_SIZE')}\n", end="", flush=True)
PY
launch() {
    HF_HOME="$folder" OMP_NUM_THREADS=1 "$folder/env/bin/accelerate" launch "$1" --num_processes 2 --num_machines 1 \
        --mixed_precision no --dynamo_backend no who.py 2> errors | sort
}
cpu=$(launch --cpu)
printf '%s\n' "--cpu:" "$cpu" "said besides:" "$(cat errors)"
several=$(launch --multi_gpu)
printf '%s\n' "--multi_gpu:" "$several"
test "$cpu" = "process None of None"
test "$several" = "process 0 of 2
process 1 of 2"
! grep -qi "num_processes" errors
