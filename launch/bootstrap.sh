#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up and builds: Debian packages, libtorch 2.11.0 from its wheel, then the binaries in
# build/release/bin. Run it as often as you like: what is done is skipped, what was cut off
# continues. Writes nothing outside the checkout but packages and the compiler cache.
# Usage: launch/bootstrap.sh [--tests] [--no-build] [--no-packages]
#   --tests        also the packages that only tests need (as root; without them those tests skip)
#   --no-build     stop before the build
#   --no-packages  take the system as it is
set -euo pipefail
# shellcheck source=launch/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

packages=(
  ca-certificates ccache cmake curl g++ git mold ninja-build pkg-config protobuf-compiler protobuf-compiler-grpc
  openssl python3 python3-venv unzip
  libabsl-dev libbenchmark-dev libcpp-httplib-dev libgmock-dev libgrpc++-dev libgtest-dev libjs-chart.js libpcre2-dev
  libprotobuf-dev libsqlite3-dev libssl-dev libutf8proc-dev libxxhash-dev libzstd-dev nlohmann-json3-dev prometheus-cpp-dev
  zlib1g-dev
)
test_packages=(clang clang-format libclang-rt-dev munge procps shellcheck slurm-wlm)

torch_wheel=torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl
cuda_wheels=(
  nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl
  nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_x86_64.whl
)
# What libtorch needs on the disk while the wheel and the unpacked files lie side by side.
libtorch_room_mb=1800

# Prints those of the given packages that are not installed.
missing_of() {
  local installed
  installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
  local package
  for package in "$@"; do
    grep -qx "installed $package" <<<"$installed" || printf '%s\n' "$package"
  done
}

apt_install() {
  # The lock of this script is not for daemons that a package may start; a Debian that is busy
  # installing is waited for.
  exec 9>&-
  local apt=(env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -o DPkg::Lock::Timeout=600)
  "$@" "${apt[@]}" update
  mapfile -t names <"$deps/missing-packages"
  "$@" "${apt[@]}" install -y --no-install-recommends "${names[@]}"
}

# install_packages required|optional PACKAGE...
install_packages() {
  local need=$1 missing
  shift
  missing=$(missing_of "$@")
  [ -n "$missing" ] || return 0
  local command="apt-get update && apt-get install -y --no-install-recommends ${missing//$'\n'/ }"
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if sudo -n true 2>/dev/null || { [ "$need" = required ] && [ -t 0 ] && command -v sudo >/dev/null && sudo -v; }; then
      as_root=(sudo -n)
    elif [ "$need" = optional ]; then
      printf '  Tests that need %s will skip (not installed, and this is not root).\n' "${missing//$'\n'/, }"
      return 0
    else
      die "$(wc -l <<<"$missing") Debian packages are missing, and $(id -un) may not install them." \
        "run this as root, then launch/bootstrap.sh again:
$command"
    fi
  fi
  printf '%s\n' "$missing" >"$deps/missing-packages"
  step "Debian packages ($(wc -l <<<"$missing"))" \
    "check the network and the package sources; as root, by hand: $command" apt_install "${as_root[@]}"
  rm -f "$deps/missing-packages"
}

check_system() {
  [ "$(uname -sm)" = "Linux x86_64" ] || die "this is $(uname -sm); the pinned libtorch is for Linux x86_64." "use such a machine."
  command -v dpkg-query apt-get >/dev/null || die "this system has no apt-get: the packages are named for Debian 12." \
    "install what the list at the head of launch/bootstrap.sh names, then run it with --no-packages."
  # shellcheck source=/dev/null
  [ "$(. /etc/os-release && echo "$ID $VERSION_ID")" = "debian 12" ] ||
    echo "  This is not Debian 12; versions of packages may differ and the build may fail."
}

# The versions and hashes this folder was made from; unpacking is done when the file in it says the
# same.
libtorch_stamp() {
  printf 'layout 1: torch/{include,lib,share} without include/google and libtorch_python.so, nvidia/cu13/lib\n'
  grep -hF -e "$torch_wheel" -e "${cuda_wheels[0]}" -e "${cuda_wheels[1]}" "$top/launch/wheels.sha256"
}

unpack_libtorch() {
  local new=$deps/libtorch.new wheel
  rm -rf "$new" "$deps/libtorch.old"
  # The wheel's protobuf 3.13 headers would shadow Debian's 3.21.
  unzip -q "$deps/wheels/$torch_wheel" 'torch/include/*' 'torch/lib/*' 'torch/share/*' \
    -x 'torch/include/google/*' 'torch/lib/libtorch_python.so' -d "$new"
  for wheel in "${cuda_wheels[@]}"; do unzip -q "$deps/wheels/$wheel" 'nvidia/cu13/lib/*' -d "$new"; done
  libtorch_stamp >"$new/STAMP"
  [ ! -e "$deps/libtorch" ] || mv "$deps/libtorch" "$deps/libtorch.old"
  mv "$new" "$deps/libtorch"
  rm -rf "$deps/libtorch.old"
}

get_libtorch() {
  if cmp -s "$deps/libtorch/STAMP" <(libtorch_stamp); then
    rm -rf "$deps/libtorch.new" "$deps/libtorch.old" "$deps/wheels/torch-"*.whl*
    return 0
  fi
  rm -rf "$deps/libtorch.new" "$deps/libtorch.old"
  local have
  have=$({ du -smc "$deps/wheels/torch-"* 2>/dev/null || true; } | awk 'END { print $1 + 0 }')
  if [ "$(($(free_mb "$deps") + have))" -lt "$libtorch_room_mb" ]; then
    die "$deps has $(free_mb "$deps") MB free; libtorch needs $libtorch_room_mb MB while it is unpacked." \
      "free some space, or clone the repository onto a larger disk, and run this again."
  fi
  local wheel
  for wheel in "${cuda_wheels[@]}" "$torch_wheel"; do fetch "$wheel"; done
  step "Unpack libtorch" "free some disk space if it is full, then run this again; it starts this step over." unpack_libtorch
  rm -f "$deps/wheels/$torch_wheel" "${cuda_wheels[@]/#/$deps/wheels/}"
}

build() {
  # A file that includes ATen takes up to 1.5 GB to compile.
  local by_memory
  by_memory=$(awk '/^MemTotal/ { print int($2 / 2e6) }' /proc/meminfo)
  local jobs
  jobs=$(nproc)
  [ "$jobs" -le "$by_memory" ] || jobs=$((by_memory > 0 ? by_memory : 1))
  export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$jobs}
  cd "$top" && cmake --workflow --preset "$1"
}

main() {
  local with_tests=false with_build=true with_packages=true started=$EPOCHREALTIME argument
  for argument in "$@"; do
    case $argument in
      --tests) with_tests=true ;;
      --no-build) with_build=false ;;
      --no-packages) with_packages=false ;;
      -h | --help) sed -n '3,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; return 0 ;;
      *) die "unknown option $argument." "see launch/bootstrap.sh --help." ;;
    esac
  done
  open_log bootstrap
  hold_lock
  echo "Setting up in $top (log: ${log#"$top"/})"
  if $with_packages; then
    check_system
    install_packages required "${packages[@]}"
    ! $with_tests || install_packages optional "${test_packages[@]}"
  fi
  get_libtorch
  ! $with_build || step "Build into build/release" \
    "read the first error in the log; if the compiler was Killed, memory ran out: CMAKE_BUILD_PARALLEL_LEVEL=1 launch/bootstrap.sh" \
    build release
  printf '  %-46s %7s s\n' "Set-up as a whole" "$(seconds_since "$started")"
}

main "$@"
