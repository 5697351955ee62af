#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The main job from nothing: sets up, builds, makes the toy world and its three models from scratch,
# trains policies with Boundary Guidance and with the controls across a learner, an actor and scorer
# processes on this machine, compares them by the world's exact rules, and says what that shows.
# Usage: launch/quickstart.sh              base, boundary, u alone, u - t           (about 3 minutes)
#        launch/quickstart.sh --contrast   which term did the work: four rewards at two weights of u
#        launch/quickstart.sh --smollm2    a real model, SmolLM2-135M-Instruct, in place of the world
# Further options go to `wideberth experiment` (--out=DIR, --override='learner { max_steps: 10 }'),
# with --smollm2 to `wideberth run` (--run_dir=DIR, --override=..., --dry_run).
set -euo pipefail
started=$EPOCHREALTIME
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds() { awk -v a="$started" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.0f", b - a }'; }

# value_of NAME ARGUMENTS...: the value of --NAME=VALUE or --NAME VALUE; empty where it is not given.
value_of() {
  local name=$1 previous='' argument value=''
  shift
  for argument in "$@"; do
    case $argument in "--$name="* | "-$name="*) value=${argument#*=} ;; esac
    case $previous in "--$name" | "-$name") value=$argument ;; esac
    previous=$argument
  done
  echo "$value"
}

smollm2() {
  launch/get_smollm2.sh
  local run_dir options=("$@")
  run_dir=$(value_of run_dir "$@")
  if [ -z "$run_dir" ]; then
    run_dir=runs/quickstart-$(date +%Y%m%d-%H%M%S)
    options+=("--run_dir=$run_dir")
  fi
  echo "Ready after $(seconds) s. Training; the results will be in $run_dir (summary.json, adapter/). Ctrl-C ends it cleanly."
  # In this script's place, so that signals and the exit code are the command's own.
  exec build/release/bin/wideberth run --config=configs/quickstart.txtpb "${options[@]}"
}

toyworld() {
  local what=$1 world=runs/toyworld/world-1 top=$PWD out
  shift
  out=$(value_of out "$@")
  local options=("$@")
  if [ -z "$out" ]; then
    out=runs/toyworld/$what-$(date +%Y%m%d-%H%M%S)
    options+=("--out=$top/$out")
  fi
  [ -f "$world/reward/config.json" ] || echo "Making the toy world and training its base, guard and reward model from scratch."
  launch/toyworld.sh "$world" 1
  echo "Ready after $(seconds) s. Ctrl-C ends it cleanly."
  local arms=(--arm=boundary --arm=u_only --arm=u_minus_t) weight form
  if [ "$what" = contrast ]; then
    arms=()
    for weight in 1.5 0.3; do
      for form in boundary u_only u_minus_t compound; do
        arms+=("--arm=${form}_w$weight=reward { form: ${form^^} utility_weight: $weight }")
      done
    done
  fi
  # The world's configurations name their files relative to its folder.
  (cd "$world" && "$top/build/release/bin/wideberth" experiment \
    --config="$top/configs/toyworld/experiment.txtpb" --standardize=256 \
    --evaluate_on=prompts_held_out.jsonl "${arms[@]}" "${options[@]}")
  echo "All of it took $(seconds) s. The page: $out/evaluation/report.html"
}

case ${1:-} in
  -h | --help) sed -n '3,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
launch/bootstrap.sh
case ${1:-} in
  --smollm2) shift; smollm2 "$@" ;;
  --contrast) shift; toyworld contrast "$@" ;;
  *) toyworld quickstart "$@" ;;
esac
