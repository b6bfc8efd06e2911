#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A folder that runs Plinth on another x86-64 Linux machine, from any path, without installing anything there.
#   launch/bundle.sh FOLDER [BUILD] [--with FILE]... [--pack FILE.tar.xz]
#     FOLDER    is made anew: FOLDER/plinth and FOLDER/mpirun start the program and its MPI
#     BUILD     build folder to take them from (default build/cuda); without libplinth_cuda.so in it the bundle knows the CPU only
#     --with    one more program of that build, such as build/cuda/tests/gpu_kernels; FOLDER/NAME starts it
#     --pack    also pack the folder
#
# In it: the programs, the CUDA module, configs/, Open MPI with its plugins, and every library that is neither the C library's
# nor CUDA's. CUDA's are taken where it runs (launch/bundle_start.sh says from where); libstdc++ and libgomp are the machine's
# own if they are new enough, else the copies in lib/fallback. Left out are MPI's plugins for fabrics (UCX, libfabric, verbs):
# their libraries have to fit that machine's drivers; ranks on one machine share memory, others talk over TCP.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

fail() {
    echo "bundle: $1" >&2
    exit 1
}

folder=
build=
pack=
extras=()
while [ $# -gt 0 ]; do
    case "$1" in
        --with | --pack) [ $# -gt 1 ] || fail "$1 needs a value" ;;&
        --with) extras+=("$2"); shift 2 ;;
        --pack) pack=$2; shift 2 ;;
        --help | -h) sed -n '3,13s/^# \{0,1\}//p' "$root/launch/bundle.sh"; exit 0 ;;
        -*) fail "unknown option '$1' (--help lists them)" ;;
        *)
            if [ -z "$folder" ]; then folder=$1; elif [ -z "$build" ]; then build=$1; else fail "one folder too many: '$1'"; fi
            shift
            ;;
    esac
done
[ -n "$folder" ] || fail "which folder? (--help says more)"
build=${build:-$root/build/cuda}
[ "$(uname -m)" = x86_64 ] || fail "bundles are for x86-64, and this machine is $(uname -m)"
for file in "$build/plinth" "${extras[@]}"; do
    [ -f "$file" ] || fail "$file is missing; build it first (cmake --build $build)"
done
if [ -e "$folder" ] && [ ! -f "$folder/.bundle" ] && [ -n "$(ls -A "$folder")" ]; then
    fail "$folder holds something that no bundle.sh wrote; choose another folder"
fi

# Provided by every Linux machine, by its own compiler runtime or the fallback, and by its CUDA.
of_the_system='^(linux-vdso|ld-linux-x86-64|libc|libm|libdl|libpthread|librt|libresolv|libutil)\.so'
of_the_compiler='^(libstdc\+\+|libgcc_s|libgomp)\.so'
of_cuda='^(libcuda|libcudart|libcublas|libcublasLt|libcudnn[a-z_]*|libnvrtc[a-z_-]*|libnvJitLink|libnccl|libcupti)\.so'
of_a_fabric='lib(mca_common_ucx|ucp|ucs|uct|fabric|psm2|psm_infinipath|ibverbs|rdmacm|oshmem|flux-core|cuda)\.so'

# needed FILE: names of the libraries that it asks for.
needed() {
    objdump -p "$1" | awk '$1 == "NEEDED" { print $2 }'
}

# libraries FILE...: "name path" of all libraries that they load, those of libraries included.
libraries() {
    local file
    for file in "$@"; do ldd "$file" || fail "$file cannot be read as a program or library"; done |
        awk '$2 == "=>" && $3 ~ /^\// { print $1, $3 }' | sort -u
}

# take FILE TO: a copy without symbols for debuggers and without this machine's paths.
take() {
    strip --strip-unneeded -o "$2" "$1"
    chmod 755 "$2"
    cmake "-DFILE=$2" -P "$folder/forget_paths.cmake" >/dev/null
}

take_libraries() {
    local name path
    libraries "$@" | while read -r name path; do
        if [[ $name =~ $of_the_system ]] || [[ $name =~ $of_cuda ]]; then continue; fi
        if [[ $name =~ $of_the_compiler ]]; then
            [ -f "$folder/lib/fallback/$name" ] || take "$path" "$folder/lib/fallback/$name"
        else
            [ -f "$folder/lib/$name" ] || take "$path" "$folder/lib/$name"
        fi
    done
}

# A starter of the same name beside bin/.
add_program() {
    take "$1" "$folder/bin/$2"
    cp "$root/launch/bundle_start.sh" "$folder/$2"
    chmod 755 "$folder/$2"
}

# path NAME: where this machine's Open MPI keeps its things (ompi_info: "Pkglibdir: /usr/lib/...").
mpi_path() {
    ompi_info --path "$1" --parsable | sed -n "s/^path:$1://p" | head -n 1
}

# Open MPI finds its folders below OPAL_PREFIX as they lie below the prefix it was built with.
take_mpi() {
    command -v ompi_info >/dev/null || fail "ompi_info is missing: only Open MPI can be bundled"
    local prefix plugins texts plugin
    prefix=$(mpi_path prefix)
    plugins=$(mpi_path pkglibdir)
    texts=$(mpi_path pkgdatadir)
    [[ $plugins == "$prefix"/* && $texts == "$prefix"/* ]] || fail "Open MPI's folders are not below its prefix $prefix"
    add_program "$(command -v orterun)" mpirun
    take "$(command -v orted)" "$folder/bin/orted"
    mkdir -p "$folder/${plugins#"$prefix"/}" "$folder/${texts#"$prefix"/}" "$folder/etc"
    cp "$texts"/help-*.txt "$folder/${texts#"$prefix"/}"
    printf '%s\n' '# Settings of this Open MPI (mpirun --mca KEY VALUE).' \
        'btl_base_warn_component_unused = 0' 'orte_base_help_aggregate = 1' >"$folder/etc/openmpi-mca-params.conf"
    local taken=()
    for plugin in "$plugins"/mca_*.so; do
        if [[ $(ldd "$plugin") =~ $of_a_fabric ]]; then continue; fi
        take "$plugin" "$folder/${plugins#"$prefix"/}/${plugin##*/}"
        taken+=("$plugin")
    done
    taken+=("$(command -v orterun)" "$(command -v orted)")
    take_libraries "${taken[@]}"
    take_pmix "$(libraries "${taken[@]}" | sed -n 's/^libpmix\.so[^ ]* //p' | head -n 1)"
}

# take_pmix LIBRARY: the plugins and texts of the process manager's interface, if Open MPI uses one from outside.
take_pmix() {
    [ -n "$1" ] || return 0
    local home plugin
    home=$(dirname "$(readlink -f "$1")")
    mkdir -p "$folder/lib/pmix" "$folder/share/pmix"
    cp "$home"/../share/pmix/help-*.txt "$folder/share/pmix"
    for plugin in "$home"/pmix/*.so; do take "$plugin" "$folder/lib/pmix/${plugin##*/}"; done
}

# Programs and libraries of the bundle.
binaries() {
    find "$folder/bin" "$folder/lib" -type f \( -name '*.so*' -o -path '*/bin/*' \)
}

# newest_symbols PATTERN: the last version of that pattern that anything in the bundle, the fallback left out, asks for.
newest_symbols() {
    binaries | grep -v /fallback/ | xargs objdump -T | sed -nE "s/.*\(?($1)\)? .*/\1/p" | sort -uV | tail -n 1
}

# Every library that is asked for is in the bundle or one that each machine has.
check_complete() {
    local file name
    while read -r file; do
        for name in $(needed "$file"); do
            if [[ $name =~ $of_the_system ]] || [[ $name =~ $of_cuda ]]; then continue; fi
            if [ -f "$folder/lib/$name" ] || [ -f "$folder/lib/fallback/$name" ]; then continue; fi
            fail "$file needs $name, which is not in the bundle"
        done
    done < <(binaries)
}

rm -rf "$folder"
mkdir -p "$folder/bin" "$folder/lib/fallback"
touch "$folder/.bundle"
echo 'file(RPATH_REMOVE FILE "${FILE}")' >"$folder/forget_paths.cmake"
programs=("$build/plinth" "${extras[@]}")
for file in "${programs[@]}"; do add_program "$file" "${file##*/}"; done
for module in libplinth_cuda.so libplinth_nccl.so; do
    if [ ! -f "$build/$module" ]; then continue; fi
    take "$build/$module" "$folder/bin/$module"
    programs+=("$build/$module")
done
take_libraries "${programs[@]}"
take_mpi
newest_symbols 'GLIBCXX_3\.4\.[0-9]+' >"$folder/lib/fallback/needs"
check_complete
cp -r "$root/configs" "$folder/configs"
rm "$folder/forget_paths.cmake"
glibc=$(newest_symbols 'GLIBC_2\.[0-9]+')
echo "$folder: $(du -sm "$folder" | cut -f 1) MB, for x86-64 Linux with glibc ${glibc#GLIBC_} or newer" \
    "$([ -f "$folder/bin/libplinth_cuda.so" ] && echo "and CUDA 13, cuDNN 9 for GPUs" || echo "(no CUDA module)")"
if [ -n "$pack" ]; then
    tar -C "$(dirname "$folder")" --owner=0 --group=0 --sort=name -cf - "$(basename "$folder")" | xz -6 -T 0 >"$pack"
    echo "$pack: $(du -m "$pack" | cut -f 1) MB"
fi
