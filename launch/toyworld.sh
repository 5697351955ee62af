#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the toy world and its three models from scratch: a base, a guard and a reward model, each
# trained by the project's own SFT, GUARD and REWARD. What is there already is kept. About 40 seconds.
# Usage: launch/toyworld.sh FOLDER [SEED [flags of `wideberth toyworld` ...]]
set -euo pipefail
[ $# -ge 1 ] || { sed -n '3,5s/^# //p' "${BASH_SOURCE[0]}"; exit 2; }
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
wideberth=${WIDEBERTH_BIN:-$top/build/release/bin}/wideberth
folder=$1
seed=${2:-1}
shift "$(($# < 2 ? 1 : 2))"
mkdir -p "$folder"
cd "$folder"

# model NAME BASE: trains configs/toyworld/NAME.txtpb and makes a model folder of the result.
model() {
  local name=$1 config=$2 from=$3
  [ ! -f "$name/config.json" ] || return 0
  local began=$EPOCHREALTIME
  rm -rf "training/$name" "$name"
  mkdir -p training
  if ! "$wideberth" run --config="$top/configs/toyworld/$config.txtpb" --override="seed: $seed" \
    --run_dir="training/$name" >"training/$name.log" 2>&1; then
    echo "training the $name failed; the last lines of $folder/training/$name.log:" >&2
    tail -n 5 "training/$name.log" >&2
    return 1
  fi
  "$wideberth" merge --model="$from" --adapter="training/$name/adapter" --out="$name" >>"training/$name.log"
  printf '  %-12s %6.1f s\n' "$name" "$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }')"
}

settings="seed $seed${*:+ $*}"
if [ -f world.txt ] && [ "$(cat world.txt)" != "$settings" ]; then
  echo "$folder holds another world ($(cat world.txt), asked for: $settings); give another folder." >&2
  exit 2
fi
if [ ! -f world.txt ]; then
  "$wideberth" toyworld --seed="$seed" --out=. "$@"
  echo "$settings" >world.txt
fi
model base sft init
model guard guard base
model reward reward_model base
