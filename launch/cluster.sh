#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Submits a run to Slurm: one job whose steps are the learner, the scorers and the actors, placed as
# the configuration's `cluster { placement {...} }` says, each restarted in place by `wideberth
# supervise`. The job ends when the learner ends, with its exit code. Binaries, models and the run
# folder lie on a disk that all nodes share; paths are relative to the folder this is called in.
# Usage: launch/cluster.sh --config=FILE [--config=FILE ...] [--override='field: value' ...]
#                          --nodes=N [--run_dir=DIR] [--redact_text] [--dry_run] [--wait]
#                          [-- SBATCH OPTIONS]
#        launch/cluster.sh --resume=DIR --nodes=N ...     goes on with the run in DIR
#   --run_dir=DIR  folder of the run (default runs/<name>-<time>), for the job's script and log too
#   --redact_text  keep the texts of prompts and completions out of logs, journal and pages
#   --dry_run      print the script, with the placement at its head, and submit nothing
#   --wait         come back when the job has ended, with its exit code
# Environment: WIDEBERTH_BIN, the folder of the programs (default build/release/bin of this
# checkout, or bin/ of a bundle). WIDEBERTH_CERTS and WIDEBERTH_TOKEN_FILE, what the processes know
# each other by (launch/make_certs.sh), on the shared disk as well; where WIDEBERTH_CERTS is not set
# they are made in DIR/certs, for 30 days. The token file is then that folder's.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
usage() { sed -n '/^# Usage/,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }

# fail SENTENCE...
fail() {
  printf 'cluster.sh: %s\n' "$*" >&2
  exit 2
}

parse() {
  placement_flags=() sbatch_options=() nodes='' dry_run=false wait_for_end=false
  while [ $# -gt 0 ]; do
    case $1 in
      --config | --override | --nodes | --run_dir | --resume)
        [ $# -ge 2 ] || fail "$1 needs a value: $1=VALUE"
        set -- "$1=$2" "${@:3}"
        continue
        ;;
      --nodes=*) nodes=${1#*=} ;;
      --config=* | --override=* | --run_dir=* | --resume=*) placement_flags+=("$1") ;;
      --redact_text) placement_flags+=("$1") ;;
      --dry_run) dry_run=true ;;
      --wait) wait_for_end=true ;;
      --) shift; sbatch_options=("$@"); break ;;
      -h | --help) usage; exit 0 ;;
      *) fail "unknown option $1 (see launch/cluster.sh --help)" ;;
    esac
    shift
  done
  [[ $nodes =~ ^[1-9][0-9]*$ ]] || fail "--nodes is \"$nodes\", must be a whole number of at least 1"
}

find_programs() {
  local folder
  for folder in "${WIDEBERTH_BIN:-}" "$here/../build/release/bin" "$here/../bin"; do
    if [ -n "$folder" ] && [ -x "$folder/wideberth" ]; then
      wideberth=$(cd "$folder" && pwd)/wideberth
      return 0
    fi
  done
  fail "the program wideberth is neither in \$WIDEBERTH_BIN nor in build/release/bin:" \
    "run launch/bootstrap.sh first"
}

# option NAME VALUE: a line for Slurm, unless the value is empty or 0.
option() {
  case $2 in '' | 0) ;; *) printf '#SBATCH --%s="%s"\n' "$1" "$2" ;; esac
}

render() {
  printf '#!/usr/bin/env bash\n'
  printf '# Wideberth run %s on %s node(s), rendered by launch/cluster.sh. Placement:\n' "$run_name" "$nodes"
  grep '^# ' <<<"$placement"
  option job-name "$run_name"
  option nodes "$nodes"
  option ntasks-per-node "$tasks_per_node"
  option cpus-per-task "$cpus_per_task"
  option gpus-per-node "$gpus_per_node"
  option partition "$partition"
  option time "$time_limit"
  option output "$run_dir/slurm-%j.log"
  # A lost node costs its actors and scorers only; a folder that holds a run is refused, so a second
  # start would be of no use; two minutes before the time limit the learner is asked to save and
  # end.
  printf '#SBATCH --no-kill\n#SBATCH --no-requeue\n#SBATCH --signal=B:TERM@120\n\n'
  printf 'run_dir=%q\nsetup=%q\ndrain_seconds=%q\n' "$run_dir" "$setup" "$drain_seconds"
  printf 'learner_node=%q\nlearner_port=%q\n' "$learner_node" "$learner_port"
  # Every step inherits them.
  printf 'export WIDEBERTH_CERTS=%q WIDEBERTH_TOKEN_FILE=%q\nunset WIDEBERTH_TOKEN\n' "$certs" "$token_file"
  job_head
  printf '\n# NODE NAME CPUS COMMAND; the learner first.\n'
  grep '^start ' <<<"$placement"
  job_tail
}

find_certs() {
  if [ -n "${WIDEBERTH_CERTS:-}" ]; then
    certs=$(realpath -m "$WIDEBERTH_CERTS")
    token_file=$(realpath -m "${WIDEBERTH_TOKEN_FILE:-$certs/token}")
    [ -r "$certs/ca.pem" ] || fail "WIDEBERTH_CERTS: $certs/ca.pem is not there (see launch/make_certs.sh --help)"
    [ -r "$token_file" ] || fail "the run token $token_file is not there (see launch/make_certs.sh --help)"
  else
    certs=$(realpath -m "$run_dir/certs")
    token_file=$certs/token
  fi
}

# Those in the run's own folder; a run that goes on keeps them unless they would end within a week.
make_certs() {
  if [ -n "${WIDEBERTH_CERTS:-}" ]; then return 0; fi
  if [ -e "$certs" ]; then
    ! openssl x509 -checkend 604800 -noout -in "$certs/ca.pem" >/dev/null || return 0
    rm -r "$certs"
  fi
  "$here/make_certs.sh" "$certs"
}

job_head() {
  cat <<'JOB'

# Names and addresses of this job's nodes, in the order of the placement.
mapfile -t node < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=()
for name in "${node[@]}"; do
  found=$(scontrol --oneliner show node "$name" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
  address+=("${found:-$name}")
done
learner=${address[$learner_node]}:$learner_port
unset SLURM_NTASKS_PER_NODE SLURM_TASKS_PER_NODE SLURM_NTASKS SLURM_NPROCS
steps=()
# Actors and scorers start when the learner has written its address file; files of an earlier job
# say nothing.
rm -f "$run_dir/learner.address" "$run_dir/stop-learner" "$run_dir/stop-members"

# One step, in the background. Steps overlap: each takes its share of the job's cores and GPUs
# without waiting for the others. What serves there tells the learner the address by which Slurm
# itself reaches the node.
start() {
  local where=$1 name=$2 cpus=$3
  shift 3
  WIDEBERTH_HOST=${address[$where]} srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="$cpus" \
    --nodelist="${node[$where]}" --job-name="$name" bash -c "$setup"$'\nexec "$@"' "$name" "$@" &
  steps+=($!)
  echo "$(date -u +%FT%TZ) started $name on ${node[$where]} (${address[$where]})"
}

any_alive() {
  local step
  for step in "$@"; do
    if kill -0 "$step" 2>/dev/null; then return 0; fi
  done
  return 1
}

# A signal to the job goes to the learner, which drains everybody else. By a file, since srun takes
# SIGTERM as an order to kill.
trap 'touch "$run_dir/stop-learner"' TERM INT
JOB
}

job_tail() {
  cat <<'JOB'

# The job is as long as the learner.
wait "${steps[0]}"
code=$?
while [ "$code" -gt 128 ] && any_alive "${steps[0]}"; do
  wait "${steps[0]}"
  code=$?
done
trap '' TERM INT
echo "$(date -u +%FT%TZ) the learner ended, exit code $code"
# After a clean end the others were told and leave by themselves; after another they are asked.
# Whoever stays too long ends with the job.
members=("${steps[@]:1}")
patience=$((code == 0 ? 5 : 0))
SECONDS=0
while any_alive "${members[@]}" && [ "$SECONDS" -lt "$((patience + drain_seconds))" ]; do
  [ "$SECONDS" -lt "$patience" ] || touch "$run_dir/stop-members"
  sleep 0.2
done
rm -f "$run_dir/stop-learner" "$run_dir/stop-members"
exit "$code"
JOB
}

main() {
  parse "$@"
  find_programs
  placement=$("$wideberth" placement "${placement_flags[@]}" --nodes="$nodes") || exit $?
  # What `wideberth placement` prints is quoted for the shell.
  local run_name run_dir partition time_limit gpus_per_node tasks_per_node cpus_per_task setup
  local learner_node learner_port drain_seconds certs token_file
  eval "$(grep -E '^[a-z_]+=' <<<"$placement")"
  find_certs
  if [ "$dry_run" = true ]; then
    render
    return 0
  fi
  command -v sbatch >/dev/null || 
    fail "there is no sbatch here: call this on a node of the cluster (--dry_run works anywhere)"
  mkdir -p "$run_dir"
  make_certs
  render >"$run_dir/job.sbatch"
  [ "$wait_for_end" = false ] || sbatch_options+=(--wait)
  echo "run folder $run_dir (job.sbatch, slurm-<job>.log, logs/)"
  sbatch "${sbatch_options[@]}" "$run_dir/job.sbatch"
}

main "$@"
