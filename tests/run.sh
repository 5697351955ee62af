#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up, builds and runs every test; what is printed is also in the log. Options go to ctest.
# Usage: tests/run.sh [-L unit] [-R Tokenizer] ...      labels: core unit golden integration slurm gpu
#        tests/run.sh --soak[=MINUTES]                  a run under random faults instead, 30 minutes
set -euo pipefail
# shellcheck source=launch/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/../launch/steps.sh"

# promtool (checks the metrics pages) is taken out of Debian's prometheus package without installing
# its server.
get_promtool() {
  rm -rf "$deps/promtool" "$deps/promtool.new"
  mkdir -p "$deps/promtool.new"
  cd "$deps/promtool.new"
  apt-get -o APT::Sandbox::User="$(id -un)" download prometheus
  dpkg-deb -x prometheus_*.deb .
  rm prometheus_*.deb
  mv "$deps/promtool.new" "$deps/promtool"
}

main() {
  case ${1:-} in -h | --help) sed -n '3,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; return 0 ;; esac
  cd "$top"
  launch/bootstrap.sh --tests
  launch/get_smollm2.sh
  open_log tests
  echo "Testing (log: ${log#"$top"/})"
  if ! command -v promtool >/dev/null; then
    [ -x "$deps/promtool/usr/bin/promtool" ] ||
      step "promtool" "check the network and run apt-get update as root, or install the package prometheus." get_promtool
    export PATH=$PATH:$deps/promtool/usr/bin
  fi
  local started=$EPOCHREALTIME code=0
  case ${1:-} in
    --soak | --soak=*)
      local minutes=30
      [ "$1" = --soak ] || minutes=${1#*=}
      OMP_NUM_THREADS=1 WIDEBERTH_BIN=build/release/bin WIDEBERTH_SOAK_MINUTES=$minutes \
        build/release/bin/soak 2>&1 | tee -a "$log" || code=$?
      exit "$code"
      ;;
  esac
  ctest --test-dir build/release --output-on-failure --no-tests=error --timeout 600 -j "$(nproc)" "$@" 2>&1 |
    tee -a "$log" || code=$?
  echo "Tests as a whole: $(seconds_since "$started") s, exit $code (log: ${log#"$top"/})"
  exit "$code"
}

main "$@"
