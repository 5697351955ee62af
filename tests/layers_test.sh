#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks the order of the folders: a folder includes itself and what stands to its left, third
# parties stay where they belong, and every source says its licence. Prints one line per offence, as
# file:line: found, expected. Run by ctest; needs git or nothing.
# Usage: tests/layers_test.sh [ROOT]
set -euo pipefail
cd "${1:-$(dirname "${BASH_SOURCE[0]}")/..}"

declare -A rank=([base]=0 [proto]=1 [model]=2 [transport]=3 [actor]=4 [scorer]=4 [learner]=4 [report]=3 [toyworld]=2 [data]=2 [launch]=5)
offences=$(mktemp)
trap 'rm -f "$offences"' EXIT

mapfile -t sources < <(for folder in "${!rank[@]}" tests benchmarks; do
  [ ! -d "$folder" ] || find "$folder" -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh'
done | sort)
[ "${#sources[@]}" -gt 0 ] || { echo "no source found in $PWD"; exit 1; }

offend() { printf '%s\n' "$1" >>"$offences"; }

check_include() {
  local file=$1 line=$2 header=$3 folder=${1%%/*} target=${3%%/*}
  if [ -n "${rank[$target]:-}" ] && [ "$target" != "$folder" ] && [ "${rank[$target]}" -ge "${rank[$folder]}" ]; then
    offend "$file:$line: $folder includes $header, may include only what stands before it (and no other role)"
  fi
  case $header in
    ATen/* | torch/* | c10/*)
      case $folder in base | proto | report | toyworld | data) offend "$file:$line: torch ($header) in $folder, must stay out of it" ;; esac ;;
    grpc/* | grpc++/* | grpcpp/* | *.grpc.pb.h)
      case $file in transport/* | */main.cc) ;; *) offend "$file:$line: gRPC ($header) outside transport and main.cc" ;; esac ;;
    sqlite3.h)
      case $file in learner/journal*) ;; *) offend "$file:$line: SQLite outside learner/journal" ;; esac ;;
  esac
}

while IFS=: read -r file line include; do
  header=${include#*[\"<]}
  check_include "$file" "$line" "${header%%[\">]*}"
done < <(printf '%s\n' "${sources[@]}" | grep -vE '^(tests|benchmarks)/' | xargs -r grep -nE '^[[:space:]]*#[[:space:]]*include[[:space:]]*["<]' || true)

for file in "${sources[@]}"; do
  [[ $(head -n 1 "$file") == "// SPDX-License-Identifier: Apache-2.0" ]] || offend "$file:1: the first line must be the SPDX line"
  if [[ $file == *.h ]] && grep -q '<torch/torch\.h>' "$file"; then
    offend "$file: a header includes torch/torch.h, which takes 20 s to compile"
  fi
done

if [ -s "$offences" ]; then
  sort "$offences"
  echo "$(wc -l <"$offences") offences against the order of the folders"
  exit 1
fi
echo "${#sources[@]} sources keep the order of the folders"
