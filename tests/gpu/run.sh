#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What only a machine with a GPU can show, from a bundle (launch/bundle.sh): NCCL between two
# processes, the weight wire of a run whose actors get versions by broadcast and one of which is
# killed, the model's numbers beside those of transformers on the same GPU, a toy world's experiment
# with every role on the GPU and then on the CPU, speed beside transformers and PEFT, and a run of a
# 1.5B model with random weights. Five minutes on one H100 without `wire`. Exit code 1 if a part
# failed.
# Usage: tests/gpu/run.sh BUNDLE OUT WORLD TOKENIZER [PART ...]
#   BUNDLE     the folder that launch/bundle.sh made
#   OUT        a folder for logs
#   WORLD      a folder that launch/toyworld.sh made
#   TOKENIZER  a folder with tokenizer.json and tokenizer_config.json, say of SmolLM2-135M-Instruct
#   PART       nccl wire parity toyworld speed run; all of them without
# Needs a Python with torch 2.11.0, transformers and peft.
set -uo pipefail
case ${1:-} in -h | --help | '') sed -n '3,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bundle=$(realpath "$1") out=$(realpath -m "$2") world=$(realpath "$3") tokenizer=$(realpath "$4")
shift 4
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(nccl wire parity toyworld speed run)
wideberth=$bundle/bin/wideberth
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
cd "$top" || exit 1

# on_gpu FILE: the configuration with every model on the GPU.
on_gpu() { sed -E 's/model \{ path: "[^"]*"/& device: "cuda:0"/' "$1"; }

part_nccl() { "$bundle/bin/nccl_carrier_test"; }

# Two actors and everybody else on one GPU, 1.5B parameters, adapters of rank 64 (148 MB in
# bfloat16). Actor 1 is killed once three versions were broadcast; a group of both must stand again.
part_wire() {
  random_qwen || return
  "$wideberth" run --config="$work/run.txtpb" --run_dir="$work/wire" --override='prompts { num_held_out: 0 }
    evaluation { num_prompts: 0 } generation { max_new_tokens: 64 } policy { lora { rank: 64 } }
    actor { replicas: 2 groups_per_lease: 4 } learner { max_steps: 12 groups_per_step: 8 group_size: 8
    micro_batch_tokens: 16384 max_logprob_difference: 1 health_port: -1 }' &
  local run=$! log=$work/wire/logs/learner-0.log
  until [ "$(sed -n '/broadcast to 2 /p' "$log" 2>/dev/null | wc -l)" -ge 3 ] || ! kill -0 $run 2>/dev/null; do sleep 0.1; done
  pkill -KILL -f -- '--name=actor-1'
  wait $run
  local code=$?
  mkdir -p "$out/wire"
  cp "$work/wire/metrics.jsonl" "$work"/wire/logs/*.log "$out/wire/"
  grep -h 'weight group' "$work"/wire/logs/*.log
  grep -ho 'paused for [^ ]*' "$work"/wire/logs/actor-*.log | sort | uniq -c
  python3 - "$work/wire/metrics.jsonl" <<'PY'
import json, sys
for line in open(sys.argv[1]):
    row = json.loads(line)
    print({key: row.get(key) for key in ("step", "step_time", "sync_seconds", "staleness_max", "logprob_difference_max")})
PY
  [ $code -eq 0 ] && [ "$(grep -c 'of 3 stands' "$log")" -ge 2 ] || return 1
  # Broadcasts to both actors after the second group stood.
  awk '/of 3 stands/ { n++ } /broadcast to 2 / && n >= 2 { ok = 1 } END { exit !ok }' "$log"
}

part_parity() { python3 tests/gpu/parity.py --wideberth "$wideberth" --tokenizer "$tokenizer"; }

part_toyworld() {
  on_gpu configs/toyworld/experiment.txtpb >"$work/gpu.txtpb"
  cp configs/toyworld/experiment.txtpb "$work/cpu.txtpb"
  head -n 200 "$world/prompts_held_out.jsonl" >"$work/test.jsonl"
  local device started
  for device in gpu cpu; do
    started=$EPOCHREALTIME
    (cd "$world" && OMP_NUM_THREADS=1 "$wideberth" experiment --config="$work/$device.txtpb" --out="$work/$device" \
      --standardize=128 --evaluate_on="$work/test.jsonl" --arm=boundary) >"$work/$device.log" 2>&1 ||
      { tail -n 20 "$work/$device.log"; return 1; }
    awk -v d="$device" -v a="$started" -v b="$EPOCHREALTIME" 'BEGIN { printf "%s: %.0f s\n", d, b - a }'
    cp "$work/$device/evaluation/summary.json" "$out/toyworld-$device.json"
    cp "$work/$device/boundary/metrics.jsonl" "$out/toyworld-$device-metrics.jsonl"
  done
  python3 - "$out" <<'PY'
import json, sys
for device in ("gpu", "cpu"):
    arms = json.load(open(f"{sys.argv[1]}/toyworld-{device}.json"))["arms"]
    for name, arm in arms.items():
        print(device, name, *(f"{key} {arm[key]:.4f}" for key in ("harm", "help") if arm.get(key) is not None))
PY
}

part_speed() {
  python3 benchmarks/compare.py --build "$bundle" --model qwen2-1.5b --dtype bfloat16 --device cuda:0 --rounds 3 \
    --json "$out/speed.json"
}

# The model and $work/run.txtpb, which has it for every role.
random_qwen() {
  [ -e "$work/run.txtpb" ] && return
  python3 benchmarks/random_models.py qwen2-1.5b "$work/model" &&
    cp "$tokenizer"/tokenizer.json "$tokenizer"/tokenizer_config.json "$work/model/" &&
    on_gpu configs/quickstart.txtpb | sed "s|\"\.deps/models/[^\"]*\"|\"$work/model\" dtype: BFLOAT16|" >"$work/run.txtpb"
}

part_run() {
  random_qwen || return
  "$wideberth" run --config="$work/run.txtpb" --run_dir="$work/run" --override='prompts { num_held_out: 0 }
    evaluation { num_prompts: 0 } generation { max_new_tokens: 96 } actor { groups_per_lease: 8 }
    learner { max_steps: 4 groups_per_step: 8 group_size: 16 micro_batch_tokens: 16384 health_port: -1 }' &
  local run=$!
  while kill -0 $run 2>/dev/null; do
    nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits
    sleep 0.5
  done >"$out/memory_mib.txt"
  wait $run
  local code=$?
  cp "$work/run/metrics.jsonl" "$out/run-metrics.jsonl"
  cp "$work"/run/logs/*.log "$out/" 2>/dev/null
  echo "most GPU memory: $(sort -n "$out/memory_mib.txt" | tail -n 1) MiB, all processes"
  return $code
}

failed=()
for part in "${parts[@]}"; do
  started=$EPOCHREALTIME
  echo "== $part"
  "part_$part" 2>&1 | tee "$out/$part.log" || failed+=("$part")
  awk -v p="$part" -v a="$started" -v b="$EPOCHREALTIME" 'BEGIN { printf "== %s took %.0f s\n", p, b - a }'
done
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
