#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes one relocatable folder of the programs and their libraries, for machines that have neither
# our Debian packages nor a compiler: a GPU node with nothing but a driver and a Python with torch
# 2.11.0. libtorch itself stays out (1 GB): bin/wideberth finds it where it runs.
# Usage: launch/bundle.sh [--build_dir build/gpu] [--out bundle/wideberth] [--libtorch DIR]
#   --build_dir DIR  a built preset; gpu is configured and built if it is not there
#   --out DIR        the folder to make; one that is there is replaced if a bundle is in it
#   --libtorch DIR   the torch folder the bundle uses unless WIDEBERTH_LIBTORCH says otherwise
#                    (default: that of the machine's Python)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/.." && pwd)
limit_mib=50

# fail SENTENCE [WHAT TO DO]
fail() {
  printf 'bundle.sh: %s\n' "$1" >&2
  [ -z "${2:-}" ] || printf 'What to do: %s\n' "$2" >&2
  exit 1
}

parse() {
  build=$top/build/gpu out=$top/bundle/wideberth libtorch=
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help) sed -n '/^# Usage/,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
      --build_dir=* | --out=* | --libtorch=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    esac
    [ $# -ge 2 ] || fail "$1 needs a value (see launch/bundle.sh --help)"
    case $1 in
      --build_dir) build=$(realpath -m "$2") ;;
      --out) out=$(realpath -m "$2") ;;
      --libtorch) libtorch=$(realpath -m "$2") ;;
      *) fail "unknown option $1 (see launch/bundle.sh --help)" ;;
    esac
    shift 2
  done
  if [ -n "$libtorch" ] && [ ! -e "$libtorch/lib/libtorch_cpu.so" ]; then
    fail "--libtorch: $libtorch/lib/libtorch_cpu.so is not there"
  fi
  if [ -e "$out" ] && [ ! -e "$out/bin/wideberth" ] && [ -n "$(ls -A "$out")" ]; then
    fail "$out holds something else than a bundle" "name another folder with --out."
  fi
}

# Ours to bring: everything but libtorch, CUDA, the driver and the C library.
is_theirs() {
  case ${1##*/} in
    libtorch* | libc10* | libgomp* | libcuda* | libcu* | libnv* | libnccl* | libcaffe2* | libshm*) ;;
    ld-linux* | linux-vdso* | libc.so* | libm.so* | libdl.so* | libpthread.so*) ;;
    librt.so* | libutil.so* | libresolv.so*) ;;
    *) return 1 ;;
  esac
}

# Every library that the programs need, directly or not, as the system resolves it here. libtorch
# need not be complete for that.
copy_libraries() {
  local name path missing=''
  while read -r name path; do
    if is_theirs "$name"; then continue; fi
    if [ -z "$path" ]; then missing+=" $name"; else cp -L "$path" "$new/lib/$name"; fi
  done < <(for program in "$new"/libexec/*; do ldd "$program"; done |
    sed -nE 's/^\s*(\S+) => (not found|(\/\S+) .*)$/\1 \3/p' | sort -u)
  [ -z "$missing" ] || fail "not found here:$missing" "run launch/bootstrap.sh first."
  strip --strip-unneeded "$new"/lib/*
}

# write_launchers NAME...: those of them that were built.
write_launchers() {
  local name
  mkdir -p "$new/bin"
  for name in "$@"; do
    [ -e "$new/libexec/$name" ] || continue
    { head -n 2 "${BASH_SOURCE[0]}"; printf 'built_in=%q\n' "$libtorch"; launcher; } >"$new/bin/$name"
    chmod +x "$new/bin/$name"
  done
}

launcher() {
  cat <<'LAUNCHER'
# A command of a bundle: finds libtorch 2.11.0, then starts the program of the same name in libexec. libtorch is the folder WIDEBERTH_LIBTORCH, or the one named when the bundle was made,
# or the torch of WIDEBERTH_PYTHON (default python3).
set -euo pipefail
self=$(readlink -f "${BASH_SOURCE[0]}")
here=$(cd "$(dirname "$self")/.." && pwd)
fail() {
  printf 'wideberth: %s\nWhat to do: %s\n' "$1" "$2" >&2
  exit 1
}
advice='set WIDEBERTH_LIBTORCH to the torch folder of a Python with torch 2.11.0, or WIDEBERTH_PYTHON'
advice+=' to that Python.'
torch=${WIDEBERTH_LIBTORCH:-$built_in}
if [ -z "$torch" ]; then
  python=${WIDEBERTH_PYTHON:-python3}
  command -v "$python" >/dev/null || fail "there is no $python here to take libtorch from." "$advice"
  torch=$("$python" -c 'import importlib.util
spec = importlib.util.find_spec("torch")
print(spec.submodule_search_locations[0] if spec else "")') || torch=
  [ -n "$torch" ] || fail "$(command -v "$python") has no torch." "install torch==2.11.0 there, or $advice"
fi
[ -e "$torch/lib/libtorch_cpu.so" ] || fail "$torch/lib/libtorch_cpu.so is not there." "$advice"
version=$(sed -nE 's/^#define TORCH_VERSION_(MAJOR|MINOR|PATCH) ([0-9]+)$/\2/p' \
  "$torch/include/torch/headeronly/version.h" 2>/dev/null | paste -sd.)
[ "$version" = 2.11.0 ] || fail "$torch is torch ${version:-of an unknown version}, expected 2.11.0." "$advice"
libraries=$torch/lib
# CUDA's and NCCL's own wheels lie beside torch's.
for folder in "$torch"/../nvidia/*/lib; do [ ! -d "$folder" ] || libraries+=:$folder; done
export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
# What starts more of us (`wideberth placement`, for launch/cluster.sh) starts this file, which
# knows about libtorch.
export WIDEBERTH_LAUNCHER=$here/bin/wideberth
exec "$here/libexec/${self##*/}" "$@"
LAUNCHER
}

main() {
  parse "$@"
  if [ ! -x "$build/bin/wideberth" ] && [ "$build" = "$top/build/gpu" ]; then
    (cd "$top" && cmake --workflow --preset gpu)
  fi
  [ -x "$build/bin/wideberth" ] || fail "$build/bin/wideberth is not there" "build it: cmake --workflow --preset gpu"
  new=$out.new
  rm -rf "$new"
  mkdir -p "$new/lib" "$new/launch"
  # Strips the programs and makes them look for libraries in ../lib only.
  cmake --install "$build" --prefix "$new" --strip >/dev/null
  LD_LIBRARY_PATH=${libtorch:-$top/.deps/libtorch/torch}/lib copy_libraries
  write_launchers wideberth nccl_carrier_test model_benchmark
  cp "$here/cluster.sh" "$here/make_certs.sh" "$new/launch/"
  cp -r "$top/configs" "$top/LICENSE" "$new/"
  local mib
  mib=$(du -sm --apparent-size "$new" | cut -f1)
  [ "$mib" -lt "$limit_mib" ] || fail "the bundle has $mib MiB, must have less than $limit_mib" "see du -a $new | sort -n"
  rm -rf "$out"
  mv "$new" "$out"
  echo "$out: $mib MiB, $(find "$out/lib" -type f | wc -l) libraries"
  echo "Copy it anywhere; $(basename "$out")/bin/wideberth takes libtorch from" \
    "${libtorch:-the torch 2.11.0 of the Python there}."
}

main "$@"
