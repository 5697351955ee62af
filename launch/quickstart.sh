#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The main job from nothing: sets up, builds, gets SmolLM2-135M-Instruct, trains it with Boundary
# Guidance across a learner, an actor and two scorer processes on this machine, and says where the
# results are. Options go to `wideberth run`.
# Usage: launch/quickstart.sh [--run_dir=DIR] [--override='learner { max_steps: 2 }'] [--dry_run] ...
set -euo pipefail
started=$EPOCHREALTIME
case ${1:-} in -h | --help) sed -n '3,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
launch/bootstrap.sh
launch/get_smollm2.sh

run_dir=
previous=
for argument in "$@"; do
  case $argument in
    --run_dir=* | -run_dir=*) run_dir=${argument#*=} ;;
    *) case $previous in --run_dir | -run_dir) run_dir=$argument ;; esac ;;
  esac
  previous=$argument
done
options=("$@")
if [ -z "$run_dir" ]; then
  run_dir=runs/quickstart-$(date +%Y%m%d-%H%M%S)
  options+=("--run_dir=$run_dir")
fi

seconds=$(awk -v a="$started" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.0f", b - a }')
echo "Ready after $seconds s. Training; the results will be in $run_dir (summary.json, adapter/). Ctrl-C ends it cleanly."
# In this script's place, so that signals and the exit code are the command's own. It prints the
# table, the adapter and what to do next.
exec build/release/bin/wideberth run --config=configs/quickstart.txtpb "${options[@]}"
