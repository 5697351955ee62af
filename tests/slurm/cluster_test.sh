#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# launch/cluster.sh on a real Slurm of two nodes (two_nodes.sh): who runs where, restarts in place, ends, exit codes, and a run that
# yields the same adapter as `wideberth run` with the same configuration and seed. Run by ctest (label slurm); 77: skipped, with a reason.
# Usage: tests/slurm/cluster_test.sh PROGRAMS_FOLDER [write_tiny_model]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
# shellcheck source=tests/slurm/two_nodes.sh
. "$here/two_nodes.sh"
programs=$(cd "$1" && pwd)
write_tiny_model=${2:-}

fail() {
  echo "FAILED: $1"
  if [ -n "${run_dir:-}" ]; then tail -n 30 "$run_dir"/slurm-*.log "$run_dir"/logs/* 2>/dev/null || true; fi
  exit 1
}
expect_equal() { [ "$1" = "$2" ] || fail "$3: found \"$1\", expected \"$2\""; }
expect_line() { grep -qE -- "$1" "$2" || fail "$2 has no line like: $1"; }

# Programs that behave like the roles as far as a job can see. They leave traces in $TRACES; the learner serves until `$TRACES/end` is there.
write_fake_roles() {
  mkdir -p "$work/fake"
  cp "$programs/wideberth" "$work/fake/"
  cat >"$work/fake/wideberth-learner" <<'ROLE'
#!/usr/bin/env bash
trap 'echo drained >"$TRACES/drained"; exit 0' TERM
echo "$SLURMD_NODENAME $SETUP_RAN $*" >"$TRACES/learner"
for flag in "$@"; do case $flag in --address_file=*) echo serving >"${flag#*=}" ;; esac; done
until [ -e "$TRACES/end" ]; do sleep 0.05; done
exit 3
ROLE
  cat >"$work/fake/wideberth-actor" <<'ROLE'
#!/usr/bin/env bash
name=$(tr ' ' '\n' <<<"$*" | sed -n 's/^--name=//p')
trap 'echo asked >>"$TRACES/$name"; exit 0' TERM
echo "$SLURMD_NODENAME $SETUP_RAN $*" >>"$TRACES/$name"
[ "$name" != actor-0 ] || [ "$(wc -l <"$TRACES/$name")" -gt 1 ] || kill -9 $$
while true; do sleep 0.05; done
ROLE
  cat >"$work/fake/wideberth-scorer" <<'ROLE'
#!/usr/bin/env bash
trap 'exit 0' TERM
echo "$SLURMD_NODENAME $SETUP_RAN $*" >"$TRACES/scorer"
while true; do sleep 0.05; done
ROLE
  chmod +x "$work"/fake/wideberth-*
  cat >"$work/fake.txtpb" <<CONFIG
name: "fake"
policy { model { path: "none" } }
prompts { path: "none.jsonl" }
scorer { name: "safety" model { path: "none" } template: "{prompt} {completion}" positive: "yes" negative: "no" }
reward { form: GUARD_ONLY guard: "safety" }
actor { replicas: 2 }
supervisor { restart_backoff: 0.2 }
cluster {
  time_limit: "00:05:00"
  learner_port: $(free_ports 1)
  setup: "export SETUP_RAN=\"it's \\\\\"yes\\\\\"\""
  placement { role: "learner" node: 1 }
  placement { role: "actor" node: 0 }
}
CONFIG
}

# submit NAME [FLAGS]: in the background through cluster.sh --wait; sets job_pid, run_dir and TRACES.
submit() {
  run_dir=$work/$1
  export TRACES=$work/$1.traces
  mkdir -p "$TRACES"
  shift
  "$top/launch/cluster.sh" "$@" --nodes=2 --run_dir="$run_dir" --wait >"$run_dir.submitted" 2>&1 &
  job_pid=$!
}

expect_job_exit_code() {
  local code=0
  wait "$job_pid" || code=$?
  expect_equal "$code" "$1" "exit code of the job, which is the learner's"
}

lines_in() { [ "$(wc -l <"$1" 2>/dev/null)" -ge "$2" ]; }
no_step_left() { ! pgrep -f -- "--log=$run_dir/logs" >/dev/null; }

test_placement_restart_and_exit_code() {
  submit placed --config="$work/fake.txtpb"
  within 60 lines_in "$TRACES/actor-0" 2 || fail "actor-0 was not started again after kill -9"
  within 60 lines_in "$TRACES/actor-1" 1 || fail "actor-1 did not start"
  within 60 lines_in "$TRACES/scorer" 1 || fail "the scorer did not start"
  touch "$TRACES/end"
  expect_job_exit_code 3
  local port setup="it's \"yes\""
  port=$(sed -n 's/.*learner_port: //p' "$work/fake.txtpb")
  expect_line "^n1 $setup .*--address=0.0.0.0:$port" "$TRACES/learner"
  expect_line "^n0 $setup .*--learner=127.0.0.1:$port" "$TRACES/actor-0"
  expect_line "^n0 $setup .*--learner=127.0.0.1:$port" "$TRACES/scorer"
  expect_line "^n1 $setup " "$TRACES/actor-1"
  expect_line "^asked" "$TRACES/actor-1"
  expect_line "the learner ended, exit code 3" "$run_dir"/slurm-*.log
  within 20 no_step_left || fail "processes are left after the job"
}

test_a_signal_to_the_job_drains_the_learner() {
  submit signalled --config="$work/fake.txtpb"
  within 60 lines_in "$TRACES/actor-1" 1 || fail "actor-1 did not start"
  scancel --batch --signal=TERM --name=fake
  expect_job_exit_code 0
  [ -e "$TRACES/drained" ] || fail "the learner was not asked to end"
  within 20 no_step_left || fail "processes are left after the job"
}

test_bad_input_is_refused_before_submission() {
  local said code=0
  said=$("$top/launch/cluster.sh" --config="$work/fake.txtpb" --nodes=1 --run_dir="$work/refused" 2>&1) || code=$?
  expect_equal "$code" 2 "exit code of one node for two"
  expect_equal "$said" "wideberth placement: cluster.placement[0].node is 1, must be at most 0 with --nodes=1" "the sentence"
  [ ! -e "$work/refused" ] || fail "a refused submission left a folder"
}

main() {
  local missing
  missing=$(slurm_missing)
  if [ -n "$missing" ]; then
    echo "SKIPPED: $missing"
    exit 77
  fi
  work=$(mktemp -d)
  trap 'stop_slurm; rm -rf "$work"' EXIT
  start_slurm "$work"
  write_fake_roles
  local test
  for test in $(compgen -A function test_); do
    SECONDS=0
    case $test in *_real_*) export WIDEBERTH_BIN=$programs ;; *) export WIDEBERTH_BIN=$work/fake ;; esac
    "$test"
    echo "ok  $test ($SECONDS s)"
  done
}

main "$@"
