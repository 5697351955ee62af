#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# launch/cluster.sh on a real Slurm of two nodes (two_nodes.sh): who runs where, restarts in place,
# ends, exit codes, and a run that yields the same adapter as `wideberth run` with the same
# configuration and seed. Run by ctest (label slurm); 77: skipped, with a reason.
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

# Programs that behave like the roles as far as a job can see. They leave traces in $TRACES; the
# learner serves until `$TRACES/end` is there.
write_fake_roles() {
  mkdir -p "$work/fake"
  cp "$programs/wideberth" "$work/fake/"
  cat >"$work/fake/wideberth-learner" <<'ROLE'
#!/usr/bin/env bash
trap 'echo drained >"$TRACES/drained"; exit 0' TERM
echo "$SLURMD_NODENAME $SETUP_RAN $*" >"$TRACES/learner"
echo "$WIDEBERTH_CERTS $WIDEBERTH_TOKEN_FILE ${WIDEBERTH_TOKEN:-none}" >"$TRACES/learner.certs"
for flag in "$@"; do case $flag in --address_file=*) echo serving >"${flag#*=}" ;; esac; done
until [ -e "$TRACES/end" ]; do sleep 0.05; done
exit 3
ROLE
  cat >"$work/fake/wideberth-actor" <<'ROLE'
#!/usr/bin/env bash
name=$(tr ' ' '\n' <<<"$*" | sed -n 's/^--name=//p')
trap 'echo asked >>"$TRACES/$name"; exit 0' TERM
echo "$SLURMD_NODENAME $SETUP_RAN $*" >>"$TRACES/$name"
echo "$WIDEBERTH_CERTS $WIDEBERTH_TOKEN_FILE ${WIDEBERTH_TOKEN:-none}" >"$TRACES/$name.certs"
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

# submit NAME [FLAGS]: in the background through cluster.sh --wait; sets job_pid, run_dir and
# TRACES.
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
  local port name setup="it's \"yes\""
  port=$(sed -n 's/.*learner_port: //p' "$work/fake.txtpb")
  expect_line "^n1 $setup .*--address=0.0.0.0:$port" "$TRACES/learner"
  expect_line "^n0 $setup .*--learner=127.0.0.1:$port" "$TRACES/actor-0"
  expect_line "^n0 $setup .*--learner=127.0.0.1:$port" "$TRACES/scorer"
  expect_line "^n1 $setup " "$TRACES/actor-1"
  expect_line "^asked" "$TRACES/actor-1"
  for name in learner actor-0 actor-1; do
    expect_equal "$(cat "$TRACES/$name.certs")" "$run_dir/certs $run_dir/certs/token none" "certificates and token of $name"
  done
  expect_equal "$(stat -c %a "$run_dir/certs" "$run_dir/certs/token" | xargs)" "700 600" "modes of the certificates' folder and the token"
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

# write_real_run NAME REPLICAS DETERMINISTIC CLUSTER_LINES: a policy and two scorers over one tiny
# model, three steps.
write_real_run() {
  local i
  [ -d "$work/model" ] || "$write_tiny_model" llama "$work/model"
  for i in 1 2 3 4 5 6 7 8; do echo "{\"prompt\": \"Tell me about the number $i.\"}"; done >"$work/prompts.jsonl"
  cat >"$work/$1.txtpb" <<CONFIG
name: "$1"
seed: 5
policy { model { path: "$work/model" } lora { rank: 4 alpha: 8 } }
prompts { path: "$work/prompts.jsonl" }
generation { max_new_tokens: 8 }
scorer { name: "safety" model { path: "$work/model" } template: "{prompt} {completion}" positive_id: 50 negative_id: 60 replicas: $2 }
scorer { name: "help" model { path: "$work/model" } template: "{completion}" positive_id: 70 negative_id: 80 output: LOG_ODDS }
reward { guard: "safety" utility: "help" }
learner { max_steps: 3 groups_per_step: 4 group_size: 4 learning_rate: 1e-3 adam_epsilon: 1e-3 deterministic: $3 }
actor { replicas: $2 groups_per_lease: 1 }
supervisor { restart_backoff: 0.2 }
cluster {
  time_limit: "00:05:00"
  learner_port: $(free_ports 1)
  $4
}
CONFIG
}

# run_both_ways NAME: by `wideberth run` into $work/NAME.local, and as a job into $work/NAME.
run_both_ways() {
  "$programs/wideberth" run --config="$work/$1.txtpb" --run_dir="$work/$1.local" >"$work/$1.log" 2>&1 || {
    tail -n 20 "$work/$1.log" "$work/$1.local"/logs/*
    fail "the local run failed"
  }
  submit "$1" --config="$work/$1.txtpb"
  expect_job_exit_code 0
  expect_equal "$(wc -l <"$run_dir/metrics.jsonl")" "$(wc -l <"$work/$1.local/metrics.jsonl")" "lines of metrics.jsonl"
  within 20 no_step_left || fail "processes are left after the job"
}

# The largest difference of two adapters' float32 tensors, as "same tensors, at most 1e-07".
adapter_difference() {
  python3 - "$1" "$2" <<'PYTHON'
import array, json, struct, sys
def read(folder):
    data = open(folder + "/adapter/adapter_model.safetensors", "rb").read()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    return header, array.array("f", data[8 + size:])
(header, a), (other, b) = map(read, sys.argv[1:])
assert header == other and len(a) == len(b) > 0, "the tensors of the adapters differ in name or shape"
print(max(abs(x - y) for x, y in zip(a, b)))
PYTHON
}

# Deterministic: wherever the processes are and whoever is slow, every byte is the same.
test_real_run_yields_the_adapter_of_a_local_run() {
  write_real_run alone 1 true 'placement { role: "actor" node: 1 } placement { role: "scorer:help" node: 1 }'
  run_both_ways alone
  cmp "$work/alone.local/adapter/adapter_model.safetensors" "$run_dir/adapter/adapter_model.safetensors" ||
    fail "the adapters of the local run and of the job differ"
}

# Not deterministic: who scores which completions beside which others depends on timing, and the last
# bits of a score on that.
test_real_run_with_two_actors_and_scorers_yields_nearly_the_same() {
  write_real_run pairs 2 false ''
  run_both_ways pairs
  local name difference
  expect_line "serves at .* with TLS, health page https://" "$run_dir/logs/learner-0.log"
  ! grep -rqF "$(cat "$run_dir/certs/token")" --exclude-dir=certs "$run_dir" || fail "the token stands in the run's folder"
  for name in learner-0 actor-0 actor-1 scorer-safety-0 scorer-safety-1 scorer-help-0; do
    [ -s "$run_dir/logs/$name.log" ] || fail "$name has no log"
  done
  difference=$(adapter_difference "$work/pairs.local" "$run_dir")
  python3 -c "import sys; sys.exit(not $difference <= 1e-6)" || fail "the adapters differ by $difference, expected at most 1e-6"
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
