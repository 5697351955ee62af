# SPDX-License-Identifier: Apache-2.0
# Sourced by the tests of label slurm: a real Slurm of one controller and two nodes, n0 and n1, on
# this machine, in a folder of its own.
# shellcheck shell=bash
# start_slurm DIR sets SLURM_CONF, so that sbatch, srun and squeue talk to it; stop_slurm ends every
# process of it.

slurm_dir=
munge_pid=

# slurm_missing: prints why no Slurm can run here; nothing where it can.
slurm_missing() {
  local program
  for program in munged mungekey slurmctld slurmd sbatch srun scontrol; do
    if ! PATH=$PATH:/usr/sbin command -v "$program" >/dev/null; then
      echo "$program is not installed (packages slurm-wlm and munge)"
      return
    fi
  done
  if [ "$(id -u)" -ne 0 ]; then
    echo "slurmd needs root, this is $(id -un)"
  fi
}

# free_ports N: as many TCP ports nobody listens on.
free_ports() {
  python3 -c '
import socket, sys
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for s in sockets: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))' "$1"
}

write_slurm_conf() {
  local ports
  # Nothing here is confined by cgroups; naming a version keeps slurmd from looking for their file
  # system, which a container may lack.
  echo 'CgroupPlugin=cgroup/v1' >"$slurm_dir/cgroup.conf"
  read -r -a ports < <(free_ports 3)
  cat >"$slurm_dir/slurm.conf" <<EOF
ClusterName=test
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$slurm_dir/munge.socket
CredType=cred/munge
CryptoType=crypto/munge
StateSaveLocation=$slurm_dir/state
SlurmdSpoolDir=$slurm_dir/spool-%n
SlurmctldPidFile=$slurm_dir/slurmctld.pid
SlurmdPidFile=$slurm_dir/slurmd-%n.pid
SlurmctldLogFile=$slurm_dir/slurmctld.log
SlurmdLogFile=$slurm_dir/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=1
MpiDefault=none
ReturnToService=2
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
KillWait=10
NodeName=n0 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=${ports[1]} CPUs=4
NodeName=n1 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=${ports[2]} CPUs=4
PartitionName=test Nodes=n0,n1 Default=YES State=UP MaxTime=10
EOF
}

# within SECONDS COMMAND...: until the command succeeds; fails when it does not in that time.
within() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.1
  done
}

nodes_are_idle() { [ "$(sinfo --noheader --Node --format=%t | sort -u)" = idle ]; }

start_slurm() {
  slurm_dir=$1/slurm
  export PATH=$PATH:/usr/sbin SLURM_CONF=$slurm_dir/slurm.conf
  mkdir -p "$slurm_dir/state" "$slurm_dir/spool-n0" "$slurm_dir/spool-n1"
  # munged wants folders that nobody else may write, up to the root; --force is for /tmp.
  chmod 755 "$1" "$slurm_dir"
  mungekey --create --keyfile="$slurm_dir/munge.key"
  munged --foreground --force --key-file="$slurm_dir/munge.key" --socket="$slurm_dir/munge.socket" --pid-file="$slurm_dir/munged.pid" \
    --log-file="$slurm_dir/munged.log" --seed-file="$slurm_dir/munged.seed" >"$slurm_dir/munged.out" 2>&1 &
  munge_pid=$!
  within 20 munge --no-input --socket="$slurm_dir/munge.socket" || { echo "munged did not start"; cat "$slurm_dir/munged.out"; return 1; }
  write_slurm_conf
  slurmctld
  slurmd -N n0
  slurmd -N n1
  within 60 nodes_are_idle || { echo "the nodes did not come up"; sinfo; tail -n 20 "$slurm_dir"/slurm*.log; return 1; }
}

# Everything that was started, by the process ids the daemons wrote; jobs first.
stop_slurm() {
  [ -n "$slurm_dir" ] || return 0
  local file pid
  if [ -s "$slurm_dir/slurmctld.pid" ]; then
    scancel --quiet --full --signal=KILL --partition=test 2>/dev/null || true
    scancel --quiet --partition=test 2>/dev/null || true
  fi
  for file in "$slurm_dir"/slurmd-n0.pid "$slurm_dir"/slurmd-n1.pid "$slurm_dir"/slurmctld.pid; do
    pid=$(cat "$file" 2>/dev/null) || continue
    kill "$pid" 2>/dev/null || continue
    within 10 process_is_gone "$pid" || kill -KILL "$pid" 2>/dev/null || true
  done
  if [ -n "$munge_pid" ]; then
    kill "$munge_pid" 2>/dev/null || true
    wait "$munge_pid" 2>/dev/null || true
  fi
}

process_is_gone() { ! kill -0 "$1" 2>/dev/null; }
