# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts of launch/ and tests/: runs named steps with a log, a progress line, a time
# and a clear end.
# shellcheck shell=bash
# Sets: top (the checkout), deps (its ignored folder of downloads), log (this run's log file).

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
deps=$top/.deps
log=
step_group=
step_name=

# die SENTENCE [WHAT TO DO]: ends the script with exit code 1.
die() {
  printf '\n%s: %s\n' "${0##*/}" "$1" >&2
  [ -z "${2:-}" ] || printf 'What to do: %s\n' "$2" >&2
  exit 1
}

# A command that fails outside a step is a fault of the script itself; it says so rather than ending
# in silence.
set -E
trap 'printf "%s: line %d failed (exit %d): %s\n" "${BASH_SOURCE[0]}" "$LINENO" "$?" "$BASH_COMMAND" >&2' ERR

# open_log NAME: every step of this run writes to .deps/logs/NAME-<time>-<process>.log; the newest
# 20 logs are kept.
open_log() {
  log=$deps/logs/$1-$(date +%Y%m%d-%H%M%S)-$$.log
  if ! { mkdir -p "$deps/logs" && echo "$0, $(date -u)" >"$log"; } 2>/dev/null; then
    die "$deps/logs cannot be written (a read-only folder, another owner, or a full disk)." \
      "make the checkout writable for $(id -un), or clone it where you may write and run this there."
  fi
  find "$deps/logs" -name '*.log' -printf '%T@ %p\n' | sort -rn | tail -n +21 | cut -d' ' -f2- | xargs -r rm -f
  trap 'interrupted INT 130' INT
  trap 'interrupted TERM 143' TERM
  trap 'interrupted HUP 129' HUP
}

# hold_lock: one script at a time works on .deps; the lock is free again when every process that
# inherited it is gone.
hold_lock() {
  exec 9>"$deps/lock"
  if ! flock -n 9; then
    echo "Another script is at work in $deps; waiting up to 30 minutes for it."
    flock -w 1800 9 || die "another script still works in $deps after 30 minutes." \
      "see who holds $deps/lock (fuser -v $deps/lock), end it, and run this again."
  fi
}

interrupted() {
  trap - INT TERM HUP
  [ -z "$step_group" ] || kill -TERM -- "-$step_group" 2>/dev/null
  printf '\n%s: ended by %s%s; nothing is half-done, run it again and it continues.\n' \
    "${0##*/}" "$1" "${step_name:+ during: $step_name}" >&2
  exit "$2"
}

# The last thing the running step wrote, cut to a line.
last_line() {
  tail -c 600 "$log" | tr '\r' '\n' | grep -v '^[[:space:]]*$' | tail -n 1 | cut -c "1-${1:-90}"
}

# free_mb FOLDER: megabytes free where the folder lies.
free_mb() { df -Pm "$1" | awk 'NR == 2 { print $4 }'; }

seconds_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }

# step NAME WHAT-TO-DO-IF-IT-FAILS COMMAND...: runs the command with its output in the log. Shows
# how it gets on (on a terminal in place, elsewhere a line every 30 s) and how long it took. A
# failure ends the script: which step, why, what to do, which log.
step() {
  local hint=$2 started=$EPOCHREALTIME shown=$SECONDS pause=0.05 rc=0
  step_name=$1
  shift 2
  printf '== %s: %s\n' "$step_name" "$*" >>"$log"
  local before
  before=$(stat -c %s "$log")
  set -m  # The step gets a process group of its own, so that an interrupt ends all of it.
  "$@" >>"$log" 2>&1 </dev/null &
  step_group=$!
  set +m
  while kill -0 "$step_group" 2>/dev/null; do
    sleep "$pause"
    [ "$SECONDS" -lt $((shown + 1)) ] || pause=0.5
    if [ -t 1 ]; then
      printf '\r\033[K  %s (%d s) %s' "$step_name" "$(seconds_since "$started" | cut -d. -f1)" "$(last_line 60)"
    elif [ $((SECONDS - shown)) -ge 30 ]; then
      shown=$SECONDS
      printf '    %s, %.0f s so far: %s\n' "$step_name" "$(seconds_since "$started")" "$(last_line)"
    fi
  done
  wait "$step_group" || rc=$?
  step_group=
  [ ! -t 1 ] || printf '\r\033[K'
  if [ "$rc" -eq 0 ]; then
    printf '  %-46s %7s s\n' "$step_name" "$(seconds_since "$started")"
    step_name=
    return 0
  fi
  printf '\nFAILED: %s, after %s s (exit %d). The last it said:\n' "$step_name" "$(seconds_since "$started")" "$rc" >&2
  tail -c "+$((before + 1))" "$log" | tail -n 25 | cut -c 1-400 | sed 's/^/    /' >&2
  [ "$(free_mb "$deps")" -ge 50 ] || printf 'The disk that holds %s is full.\n' "$deps" >&2
  printf 'What to do: %s\nLog: %s\n' "$hint" "$log" >&2
  exit 1
}

# make_python: a Python environment in .deps/python, used for nothing but pip.
make_python() {
  rm -rf "$deps/python.new" "$deps/python"
  local python=/usr/bin/python3
  [ -x "$python" ] || python=python3
  "$python" -m venv "$deps/python.new" && mv "$deps/python.new" "$deps/python"
}

ensure_python() {
  "$deps/python/bin/python" -c 'import pip' 2>/dev/null ||
    step "Python environment for pip" "install python3-venv (launch/bootstrap.sh does it), then run this again." make_python
}

# fetch WHEEL: downloads a wheel pinned in launch/wheels.sha256 into .deps/wheels, unless it is
# there and sound.
fetch() {
  ensure_python
  local label part=$deps/wheels/$1.part
  label="Download $(cut -d- -f1,2 <<<"${1%@}")"
  [ ! -s "$part" ] || label="$label, from $(($(stat -c %s "$part") / 1000000)) MB on"
  step "$label" "as the last line says." "$deps/python/bin/python" "$top/launch/fetch_wheel.py" "$1" "$deps/wheels"
}
