#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes what the processes of a run know each other by beyond one machine: a CA, for each role a
# certificate that names it (learner.wideberth, actor.wideberth, scorer.wideberth), and a token.
# Usage: launch/make_certs.sh DIR [--host=NAME ...] [--days=N] [--keep_ca]
#   DIR          new or empty; becomes a folder (mode 700) with ca.pem, ROLE.pem, ROLE.key and token
#   --host=NAME  name or IP address by which browsers shall accept health pages; may be repeated
#   --days=N     how long the certificates hold (default 30)
#   --keep_ca    leave ca.key in DIR; without it the CA's key is deleted, so that nobody can make
#                another certificate that this run accepts (to change anything, make a new folder)
# Then, for every process: export WIDEBERTH_CERTS=DIR WIDEBERTH_TOKEN_FILE=DIR/token
set -euo pipefail
umask 077

usage() { sed -n '/^# Usage/,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }

# fail SENTENCE...
fail() {
  printf 'make_certs.sh: %s\n' "$*" >&2
  exit 2
}

parse() {
  folder='' days=30 keep_ca=false alternative_names=''
  while [ $# -gt 0 ]; do
    case $1 in
      --host | --days)
        [ $# -ge 2 ] || fail "$1 needs a value: $1=VALUE"
        set -- "$1=$2" "${@:3}"
        continue
        ;;
      --host=*) add_host "${1#*=}" ;;
      --days=*) days=${1#*=} ;;
      --keep_ca) keep_ca=true ;;
      -h | --help) usage; exit 0 ;;
      -*) fail "unknown option $1 (see launch/make_certs.sh --help)" ;;
      *)
        [ -z "$folder" ] || fail "two folders are given, $folder and $1, expected one"
        folder=${1%/}
        ;;
    esac
    shift
  done
  [ -n "$folder" ] || fail "no folder is given (see launch/make_certs.sh --help)"
  [[ $days =~ ^[1-9][0-9]{0,3}$ ]] || fail "--days is \"$days\", must be a whole number from 1 to 9999"
  [ ! -e "$folder" ] || [ -z "$(ls -A "$folder")" ] || fail "$folder is not empty, and nothing is overwritten: name another folder"
  command -v openssl >/dev/null || fail "there is no openssl here: install the package openssl"
}

# The names that mean a role are not for hosts.
add_host() {
  local kind=DNS
  if [[ $1 =~ ^[0-9A-Fa-f.:]*:[0-9A-Fa-f.:]*$ || $1 =~ ^[0-9.]+$ ]]; then
    kind=IP
  elif ! [[ $1 =~ ^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$ ]] || [[ ${1,,} == *.wideberth ]]; then
    fail "--host is \"$1\", must be the name or the IP address of a machine"
  fi
  alternative_names+=,$kind:$1
}

# quietly COMMAND...: its output only where it fails.
quietly() {
  local said
  said=$("$@" 2>&1) || fail "openssl failed: $said"
}

make_ca() {
  quietly openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days "$days" \
    -keyout "$new/ca.key" -out "$new/ca.pem" -subj "/O=Wideberth/CN=run $(openssl rand -hex 8)" \
    -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign"
}

# make_role ROLE
make_role() {
  printf '%s\n' "subjectAltName=DNS:$1.wideberth$alternative_names" basicConstraints=critical,CA:FALSE \
    keyUsage=critical,digitalSignature extendedKeyUsage=serverAuth,clientAuth >"$new/extensions"
  quietly openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
    -keyout "$new/$1.key" -out "$new/request" -subj "/O=Wideberth/CN=$1"
  quietly openssl x509 -req -in "$new/request" -CA "$new/ca.pem" -CAkey "$new/ca.key" \
    -set_serial "0x$(openssl rand -hex 16)" -days "$days" -extfile "$new/extensions" -out "$new/$1.pem"
  rm -f "$new/request" "$new/extensions"
}

main() {
  parse "$@"
  mkdir -p "$(dirname "$folder")"
  # Beside the folder, so that it is there as a whole or not at all.
  new=$(mktemp -d "$folder.XXXXXX")
  trap 'rm -rf "$new"' EXIT
  make_ca
  local role
  for role in learner actor scorer; do make_role "$role"; done
  openssl rand -hex 32 >"$new/token"
  $keep_ca || rm -f "$new/ca.key"
  chmod 600 "$new"/*
  mv -T "$new" "$folder"
  echo "$folder: CA, certificates of learner, actor and scorer for $days days, token"
}

main "$@"
