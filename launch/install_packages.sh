#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that Plinth needs and that are missing. Asks nothing.
#   launch/install_packages.sh              what building and testing need
#   launch/install_packages.sh build        only what the program itself needs
#   launch/install_packages.sh all          also clang-tidy and the fuzzers' compiler
#   launch/install_packages.sh cuda         what the CUDA backend needs beside the toolkit, which must be there: headers of
#                                           nvidia-cudnn-frontend from PyPI, put in .cache
set -euo pipefail

build=(g++ cmake ninja-build pkg-config git
       libopenmpi-dev openmpi-bin libprotobuf-dev protobuf-compiler libyaml-cpp-dev libcli11-dev libfmt-dev
       libdnnl-dev ocl-icd-opencl-dev  # oneDNN's CMake package asks for OpenCL, which Debian only recommends with it
       libpcre2-dev libutf8proc-dev libzstd-dev zlib1g-dev libxxhash-dev nlohmann-json3-dev)
tests=(libgtest-dev libbenchmark-dev ccache python3 clang-format-14)
tools=(clang-14 clang libclang-rt-14-dev clang-tidy llvm)

cuda=(python3-pip libboost-context-dev)  # Boost.Context: tests run kernels on an emulated device
cudnn_frontend=1.32.0

case "${1:-test}" in
    build) wanted=("${build[@]}") ;;
    test) wanted=("${build[@]}" "${tests[@]}") ;;
    cuda) wanted=("${build[@]}" "${cuda[@]}") ;;
    all) wanted=("${build[@]}" "${tests[@]}" "${tools[@]}") ;;
    *) echo "install_packages: unknown set '$1' (build, test, all or cuda)" >&2; exit 2 ;;
esac

if ! command -v apt-get >/dev/null; then
    echo "install_packages: no apt-get here. Install what these Debian packages hold, by the names your system uses:" >&2
    echo "  ${wanted[*]}" >&2
    exit 1
fi

missing=()
for package in "${wanted[@]}"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing+=("$package")
done
fetch_headers() {
    local root folder
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    folder=$root/.cache/cudnn_frontend
    [ "$(cat "$folder/version" 2>/dev/null)" = $cudnn_frontend ] && return
    rm -rf "$folder" "$folder.part"
    mkdir -p "$folder.part"
    python3 -m pip download -q --no-deps --only-binary=:all: -d "$folder.part" "nvidia-cudnn-frontend==$cudnn_frontend"
    # A wheel is a zip; only its headers are needed.
    python3 - "$folder.part" <<'PYTHON'
import pathlib, sys, zipfile
folder = pathlib.Path(sys.argv[1])
(wheel,) = folder.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    archive.extractall(folder, [name for name in archive.namelist() if name.startswith("include/")])
wheel.unlink()
PYTHON
    [ -f "$folder.part/include/cudnn_frontend.h" ] || { echo "install_packages: the wheel holds no cudnn_frontend.h" >&2; exit 1; }
    echo $cudnn_frontend >"$folder.part/version"
    mv "$folder.part" "$folder"
    echo "install_packages: headers of nvidia-cudnn-frontend $cudnn_frontend are in $folder"
}

if [ ${#missing[@]} -eq 0 ]; then
    echo "install_packages: all ${#wanted[@]} packages are here"
    if [ "${1:-}" = cuda ]; then fetch_headers; fi
    exit 0
fi

if [ "$(id -u)" = 0 ]; then
    as_root=(env)
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo -n env)
else
    echo "install_packages: missing packages, and neither root nor a sudo that asks no password. Run as root:" >&2
    echo "  apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
fi

echo "install_packages: installing ${missing[*]}"
# Another apt may hold the lock for a while on a machine that has just started.
apt=("${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300)
"${apt[@]}" update </dev/null
"${apt[@]}" install --no-install-recommends "${missing[@]}" </dev/null
if [ "${1:-}" = cuda ]; then fetch_headers; fi
