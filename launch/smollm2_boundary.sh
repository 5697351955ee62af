#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Boundary Guidance on SmolLM2-135M-Instruct, from real data to the report: trains a guard, a second
# guard on other rows and a reward model, draws 1,200 + 300 prompts, trains the policy for 60 steps
# and compares it with the base, each behind the filter and without it. Two cores; about two and
# three quarter hours, 78 minutes of them the policy's training. What is done is kept (runs/smollm2).
# Needs the build, the data named in configs/guard_smollm2.txtpb, configs/reward_smollm2.txtpb and
# configs/data/smollm2_mix.txtpb. Usage: launch/smollm2_boundary.sh [--arm=NAME ...] [flags of
# `wideberth experiment`]; --arm defaults to boundary.
set -euo pipefail
case ${1:-} in -h | --help) sed -n '3,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
wideberth=${WIDEBERTH_BIN:-build/release/bin}/wideberth
model=.deps/models/SmolLM2-135M-Instruct
root=runs/smollm2

# model NAME CONFIG: trains configs/CONFIG.txtpb into $root/NAME, or goes on with it.
model() {
  local folder=$root/$1 arguments=("--config=configs/$2.txtpb" "--run_dir=$root/$1")
  ! grep -qs '"ended": "completed"' "$folder/summary.json" || return 0
  [ ! -f "$folder/config.txtpb" ] || arguments=("--resume=$folder")
  echo "Training $1 (log: $folder.log)"
  OMP_NUM_THREADS=1 "$wideberth" run "${arguments[@]}" >"$folder.log" 2>&1 ||
    { echo "training $1 failed; the last lines of $folder.log:" >&2; tail -n 5 "$folder.log" >&2; return 1; }
}

launch/get_smollm2.sh
mkdir -p "$root"
[ -f "$root/mix/manifest.json" ] ||
  "$wideberth" data --recipe=configs/data/smollm2_mix.txtpb --root=../shared/data --tokenizer="$model" --out="$root/mix"
# One core each: the guard beside the two others.
model guard guard_smollm2 &
guard=$!
model second_guard second_guard_smollm2
model reward reward_smollm2
wait "$guard"
# measured NAME CONFIG: how well a guard tells harmful answers on rows that it was not trained on.
measured() {
  local sets=../shared/data/guardreasoner-eval
  [ -f "$root/measured/$1/guard_table.json" ] || "$wideberth" evaluate --guard --config="configs/$2.txtpb" \
    --override="adapter: \"$root/$1/adapter\"" --rows=400 --out="$root/measured/$1" \
    --data={"$sets"/beaver_tails.jsonl,"$sets"/safe_rlhf.jsonl,"$sets"/harmbench_response.jsonl,"$sets"/xstest_response_harmful.jsonl}:response_harm
}
measured guard guard_smollm2
measured second_guard second_guard_smollm2
arms=(--arm=boundary)
for argument in "$@"; do case $argument in --arm | --arm=*) arms=() ;; esac; done
"$wideberth" experiment --config=configs/smollm2_boundary.txtpb --out="$root/experiment" --standardize=64 \
  --evaluate_on="$root/mix/test.jsonl" "${arms[@]}" "$@"
"$wideberth" report "$root"/{experiment/evaluation,measured/guard,measured/second_guard} --out="$root/report"
