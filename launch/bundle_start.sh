#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Starts the program of the same name in bin/, with the bundle's libraries (launch/bundle.sh copies this beside it).
#
# CUDA's libraries are looked for in $CUDA_HOME/lib64 (or /usr/local/cuda/lib64), and in the Python wheels (nvidia-cublas and so on)
# of the python3 in PATH; those that the loader finds by itself serve as well. Without them the program runs on the CPU, and where
# a driver is, a line says which are missing and what to do.
set -eu
self=$(readlink -f "$0")
here=$(dirname "$self")
name=$(basename "$self")

paths=$here/lib
add_if_cuda() {
    for file in "$1"/libcudart.so.13 "$1"/libcublasLt.so.13 "$1"/libnvrtc.so.13 "$1"/libcudnn.so.9 "$1"/libnccl.so.2; do
        if [ -e "$file" ]; then
            paths=$paths:$1
            return 0
        fi
    done
}

# Whether the loader will find it: in what was added, in what the caller has, or by itself.
is_found() {
    rest=$paths${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}:
    while [ -n "$rest" ]; do
        [ ! -e "${rest%%:*}/$1" ] || return 0
        rest=${rest#*:}
    done
    "$(command -v ldconfig || echo /sbin/ldconfig)" -p 2>/dev/null | grep -qF "$1"
}

missing_libraries() {
    missing=
    for library in libcudart.so.13 libcublasLt.so.13 libnvrtc.so.13 libcudnn.so.9; do
        is_found "$library" || missing=$missing${missing:+, }$library
    done
}

if [ -e "$here/bin/libplinth_cuda.so" ]; then
    toolkit=${CUDA_HOME:-/usr/local/cuda}
    add_if_cuda "$toolkit/lib64"
    add_if_cuda "$toolkit/lib"
    python=$(command -v python3 || true)
    if [ -n "$python" ]; then
        prefix=$(dirname "$(dirname "$python")")
        for folder in "$prefix"/lib/python3*/site-packages/nvidia/*/lib "$prefix"/lib/python3*/dist-packages/nvidia/*/lib \
            "$prefix"/local/lib/python3*/dist-packages/nvidia/*/lib \
            "${HOME:-/nonexistent}"/.local/lib/python3*/site-packages/nvidia/*/lib; do
            add_if_cuda "$folder"
        done
    fi
    missing_libraries
    if [ -n "$missing" ] && [ -n "$python" ]; then  # a python3 that stands for another one (pyenv) lies elsewhere: it is asked
        packages=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' 2>/dev/null || true)
        for folder in "${packages:-/nonexistent}"/nvidia/*/lib; do
            add_if_cuda "$folder"
        done
        missing_libraries
    fi
    if [ -n "$missing" ]; then
        for driver in ${PLINTH_DRIVER_FILES:-/dev/nvidiactl /dev/dxg}; do  # another value is for tests
            [ -e "$driver" ] || continue
            echo "$name: an NVIDIA driver is here but not $missing, so that no GPU can be used: set CUDA_HOME to a CUDA 13 toolkit that has" \
                "them, or: python3 -m pip install nvidia-cuda-runtime nvidia-cublas nvidia-cuda-nvrtc nvidia-cudnn-cu13" >&2
            break
        done
    fi
fi

# The machine's libstdc++ serves if it has the symbols that the bundle was linked with.
needs=$(cat "$here/lib/fallback/needs")
fallback=$here/lib/fallback
for folder in /usr/lib/x86_64-linux-gnu /lib/x86_64-linux-gnu /usr/lib64 /lib64 /usr/lib; do
    if [ -e "$folder/libstdc++.so.6" ] && [ -e "$folder/libgomp.so.1" ] && [ -e "$folder/libgcc_s.so.1" ] &&
        grep -qF "$needs" "$folder/libstdc++.so.6"; then
        fallback=
        break
    fi
done
[ -z "$fallback" ] || paths=$paths:$fallback

export LD_LIBRARY_PATH="$paths${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export OPAL_PREFIX="$here" OPAL_SYSCONFDIR="$here/etc"
export PMIX_PKGLIBDIR="$here/lib/pmix" PMIX_PKGDATADIR="$here/share/pmix" PMIX_SYSCONFDIR="$here/etc"
if [ "$name" = mpirun ]; then
    # Open MPI wants a way to other machines even where there is none.
    if ! command -v ssh >/dev/null && ! command -v rsh >/dev/null && ! command -v srun >/dev/null; then
        export OMPI_MCA_plm="${OMPI_MCA_plm:-isolated}"
    fi
    set -- --prefix "$here" "$@"  # for the machines that it starts ranks on
fi
exec "$here/bin/$name" "$@"
