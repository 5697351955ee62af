#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The studies of docs/results.md: toy worlds of several seeds, arms trained from one configuration
# in each, all runs of a study on one page (runs/study/NAME/report.html). What is done is kept, so
# a study that was cut off goes on.
# Usage: launch/study.sh STUDY [SEED ...]        seeds default to 21 22 23 24 25
#   arms           the six rewards of the paper and its controls at u weight 1.5
#   weights        u weights 0.1 to 3
#   kl             beta 0.01 to 0.2
#   group_size     4, 8 and 16 answers a prompt, 128 a step
#   shape          the boundary term's shape and coefficient
#   guard          guards trained on 300, 1,200 and 4,800 answers
#   slang          slang that guard and annotators miss, a small u weight, twice as many steps
#   refusing       a base that almost never complies
#   miscalibrated  guards that cry wolf and that look away
#   attack         an attacker who tries every wording of a request and keeps the worst
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
wideberth=${WIDEBERTH_BIN:-$top/build/release/bin}/wideberth
case ${1:--} in -*) sed -n '3,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;; esac
study=$1
shift
seeds=("$@")
[ $# -ge 1 ] || seeds=(21 22 23 24 25)
root=$top/runs/study

prompts=prompts_held_out  # What is answered in the end.

# compare NAME "WORLD FLAGS" OVERRIDE ARMS...: every seed's world, then one report of all seeds.
compare() {
  local name=$1 flags=$2 override=$3 seed world arm arms=() folders=()
  shift 3
  for arm in "$@"; do arms+=("--arm=$arm"); done
  for seed in "${seeds[@]}"; do
    world=$root/worlds/$seed$(tr -cd 'a-z0-9_.=-' <<<"$flags")
    echo "=== $name, seed $seed"
    # shellcheck disable=SC2086  # Several flags.
    "$top/launch/toyworld.sh" "$world" "$seed" $flags
    (cd "$world" && "$wideberth" experiment --config="$top/configs/toyworld/experiment.txtpb" \
      --evaluate_on="$prompts.jsonl" --standardize=256 --out="$root/$name/seed-$seed" --override="seed: $seed $override" "${arms[@]}" >"$world/$name.log" 2>&1) ||
      { tail -n 20 "$world/$name.log" >&2; return 1; }
    folders+=("$root/$name/seed-$seed/evaluation")
  done
  "$wideberth" report "${folders[@]}" --out="$root/$name" | tee "$root/$name/report.txt"
}

# forms WEIGHT FORM...: arms of these forms at a weight of u.
forms() {
  local weight=$1 form
  shift
  for form in "$@"; do echo "${form}_w$weight=reward { form: ${form^^} utility_weight: $weight }"; done
}

case $study in
  arms) compare arms "" "" boundary u_only u_minus_t guard_only prompt_aware compound ;;
  weights)
    all=()
    for weight in 0.1 0.3 0.75 1.5 3; do
      mapfile -t -O "${#all[@]}" all < <(forms "$weight" boundary u_minus_t compound)
    done
    compare weights "" "" "${all[@]}"
    ;;
  kl)
    all=()
    for beta in 0.01 0.05 0.2; do
      for form in boundary u_minus_t; do
        all+=("${form}_kl$beta=reward { form: ${form^^} } learner { beta: $beta }")
      done
    done
    compare kl "" "" "${all[@]}"
    ;;
  group_size)
    all=()
    for size in 4 8 16; do
      for form in boundary u_minus_t; do
        all+=("${form}_g$size=reward { form: ${form^^} } learner { group_size: $size groups_per_step: $((128 / size)) }")
      done
    done
    compare group_size "" "" "${all[@]}"
    ;;
  shape)
    compare shape "" "" boundary u_minus_t "c3=reward { boundary_coefficient: 3 }" \
      "absolute=reward { form: ABSOLUTE boundary_coefficient: 2 }" \
      "squared=reward { form: SQUARED boundary_coefficient: 4 }" \
      "absolute_w0.3=reward { form: ABSOLUTE boundary_coefficient: 2 utility_weight: 0.3 }"
    ;;
  guard)
    for rows in 300 1200 4800; do
      compare "guard_$rows" "--num_guard_rows=$rows" "" boundary u_only u_minus_t compound
    done
    ;;
  slang)
    compare slang "--guard_corruption=0.5 --slang_missed=1" "learner { max_steps: 120 }" boundary u_minus_t compound \
      "boundary_w0.3=reward { utility_weight: 0.3 }" "u_minus_t_w0.3=reward { form: U_MINUS_T utility_weight: 0.3 }" \
      "compound_w0.3=reward { form: COMPOUND utility_weight: 0.3 }"
    ;;
  refusing) compare refusing "--unsafe_compliance=0.02" "" boundary u_only u_minus_t guard_only compound ;;
  miscalibrated)
    for shift in 1.5 -1.5; do
      compare "miscalibrated_$shift" "--guard_label_shift=$shift" "" boundary u_only u_minus_t compound
    done
    ;;
  attack)
    prompts=prompts_attack
    compare attack "" "" boundary u_only u_minus_t compound
    ;;
  *) echo "there is no study \"$study\" (see launch/study.sh --help)" >&2; exit 2 ;;
esac
