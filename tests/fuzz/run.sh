#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the fuzz targets (preset fuzz, clang) and runs each for a while; what was found in earlier
# runs is gone on from (build/fuzz/corpus). A fault ends with exit code 1 and says where its input is.
# Usage: tests/fuzz/run.sh [--seconds=N] [TARGET...]      N: 30 a target; TARGET: of tests/fuzz/TARGET_fuzz.cc
set -euo pipefail
# shellcheck source=launch/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../launch/steps.sh"

seconds=30
build=$top/build/fuzz

# run_target NAME: its figures as one line, or what went wrong.
run_target() {
  local name=$1 corpus=$build/corpus/$1 faults=$build/faults/$1 out=$build/faults/$1.log
  local program=$build/bin/$1_fuzz regressions=$top/tests/fuzz/regressions/$1 scratch options rc=0
  mkdir -p "$corpus" "$faults" "$regressions"
  scratch=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")" wideberth-fuzz-XXXXXX)
  options=(-dict="$top/tests/fuzz/$([ "$name" = config ] && echo config || echo json).dict"
    -artifact_prefix="$faults/" -max_total_time="$seconds" -max_len=16384 -timeout=10
    -rss_limit_mb=2048 -malloc_limit_mb=1024 -print_final_stats=1)
  export TMPDIR=$scratch OMP_NUM_THREADS=1 UBSAN_OPTIONS=print_stacktrace=1
  WIDEBERTH_WRITE_SEEDS=$corpus "$program" >"$out" 2>&1 &&
    "$program" "${options[@]}" "$corpus" "$regressions" >"$out" 2>&1 || rc=$?
  rm -rf "$scratch"
  rmdir --ignore-fail-on-non-empty "$regressions" "$faults"
  if [ "$rc" -ne 0 ]; then
    printf '%s: FAULT (exit %d), its input: %s\n' "$name" "$rc" "$(sed -n 's/.*Test unit written to //p' "$out")"
    grep -m 3 -E 'ERROR:|runtime error:|invariant broken|does not name|terminate called|what\(\)' "$out" || tail -n 5 "$out"
    printf 'Log: %s; once it is put right, the input goes to tests/fuzz/regressions/%s\n' "$out" "$name"
    return 1
  fi
  awk -v name="$name" '/ cov: / { cov = $4; ft = $6 } /number_of_executed_units/ { runs = $2 } /average_exec_per_sec/ { rate = $2 }
    /peak_rss_mb/ { rss = $2 } / corp: / { sub("/.*", "", $8); corp = $8 }
    END { printf "%-14s %9d runs, %6d/s, coverage %5d, features %6d, corpus %5d, %4d MB\n", name, runs, rate, cov, ft, corp, rss }' "$out"
}

main() {
  local targets=() argument
  for argument in "$@"; do
    case $argument in
      --seconds=*) seconds=${argument#*=} ;;
      -h | --help) sed -n '3,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; return 0 ;;
      -*) die "unknown option $argument." "see tests/fuzz/run.sh --help." ;;
      *) targets+=("$argument") ;;
    esac
  done
  cd "$top"
  command -v clang++ >/dev/null || die "there is no clang++, which brings libFuzzer." "apt-get install clang libclang-rt-dev"
  [ "${#targets[@]}" -gt 0 ] || mapfile -t targets < <(find tests/fuzz -name '*_fuzz.cc' -printf '%f\n' | sed 's|_fuzz.cc$||' | sort)
  for argument in "${targets[@]}"; do
    [ -e "tests/fuzz/${argument}_fuzz.cc" ] || die "there is no fuzz target $argument." "see tests/fuzz."
  done
  open_log fuzz
  step "Build the fuzz targets" "read the first error in the log." cmake --workflow --preset fuzz
  # Each target is one thread's work.
  local jobs=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)} code=0
  export -f run_target
  export top build seconds
  printf '%s\n' "${targets[@]}" | xargs -P "$jobs" -I{} bash -c 'run_target {}' 2>&1 | tee -a "$log" || code=1
  exit "$code"
}

main "$@"
