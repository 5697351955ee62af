#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# launch/bundle.sh of this build: small, relocatable, clear about a libtorch it cannot find. The
# bundle is moved and run with an empty environment. Run by ctest.
# Usage: tests/launch/bundle_test.sh BUILD_DIR LIBTORCH_DIR
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
  echo "FAILED: $1"
  exit 1
}
# bare COMMAND...: with nothing of this environment.
bare() { env -i PATH=/usr/bin:/bin "$@"; }

"$top/launch/bundle.sh" --build_dir "$1" --out "$work/made"
mkdir "$work/elsewhere"
mv "$work/made" "$work/elsewhere/moved"
wideberth=$work/elsewhere/moved/bin/wideberth

said=$(bare WIDEBERTH_LIBTORCH="$2" "$wideberth" --version) || fail "the moved bundle does not start: $said"
[[ $said == "wideberth "* ]] || fail "--version says: $said"
for program in "$work"/elsewhere/moved/libexec/*; do
  strays=$(bare LD_LIBRARY_PATH="$2/lib" ldd "$program" | grep -E '/lib/.*(absl|grpc|protobuf|ssl|sqlite|pcre|httplib|stdc\+\+)' | grep -v "$work/elsewhere" || true)
  [ -z "$strays" ] || fail "${program##*/} takes libraries from outside the bundle: $strays"
  ! readelf -d "$program" | grep -E 'R(UN)?PATH' | grep -q "$2" || fail "${program##*/} names the machine it was built on"
done

code=0
said=$(bare WIDEBERTH_LIBTORCH="$work/nothing" "$wideberth" --version 2>&1) || code=$?
[ "$code" -ne 0 ] || fail "a libtorch that is not there was accepted"
[[ $said == *"$work/nothing/lib/libtorch_cpu.so is not there"* ]] || fail "the sentence is: $said"

mkdir -p "$work/old/lib" "$work/old/include/torch/headeronly"
touch "$work/old/lib/libtorch_cpu.so"
printf '#define TORCH_VERSION_%s\n' 'MAJOR 2' 'MINOR 10' 'PATCH 1' >"$work/old/include/torch/headeronly/version.h"
said=$(bare WIDEBERTH_LIBTORCH="$work/old" "$wideberth" --version 2>&1) && fail "torch 2.10.1 was accepted"
[[ $said == *"is torch 2.10.1, expected 2.11.0"* ]] || fail "the sentence is: $said"

mkdir "$work/precious"
touch "$work/precious/file"
"$top/launch/bundle.sh" --build_dir "$1" --out "$work/precious" >/dev/null 2>&1 && fail "a folder that is no bundle was replaced"
[ -e "$work/precious/file" ] || fail "a folder that is no bundle was emptied"
echo "the bundle of $1 moves"
