#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# launch/bundle_start.sh finds CUDA's libraries where they may lie, in folders made up here: the toolkit, wheels of an activated
# environment, of a user, of a python3 that stands for another one; and says in one line what is missing where a driver is.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

fail() {
    echo "FAILED: $1"
    cat "$folder"/out "$folder"/said 2>/dev/null
    exit 1
}

# A bundle whose program says where the loader is to look.
bundle="$folder/a bundle"
mkdir -p "$bundle/bin" "$bundle/lib/fallback" && cp "$root/launch/bundle_start.sh" "$bundle/plinth"
printf 'GLIBCXX_3.4\n' >"$bundle/lib/fallback/needs"
printf '#!/bin/sh\necho "$LD_LIBRARY_PATH" | tr : "\\n"\n' >"$bundle/bin/plinth"
chmod +x "$bundle/bin/plinth" "$bundle/plinth"
touch "$bundle/bin/libplinth_cuda.so" "$folder/driver"

all="libcudart.so.13 libcublasLt.so.13 libnvrtc.so.13 libcudnn.so.9"
# libraries FOLDER NAME...
libraries() {
    mkdir -p "$1" && (cd "$1" && shift && touch "$@")
}

# The shell's tools without its python3 and ldconfig, which would find what this machine has.
mkdir "$folder/tools"
for tool in sh readlink dirname basename cat grep tr env; do ln -s "$(command -v $tool)" "$folder/tools/$tool"; done
printf '#!/bin/sh\ncat "%s/known" 2>/dev/null\n' "$folder" >"$folder/tools/ldconfig" && chmod +x "$folder/tools/ldconfig"

# start [WORD=VALUE]...: the folders into $folder/out, what it says into $folder/said.
start() {
    env -i PATH="$folder/tools" HOME="$folder/home" CUDA_HOME="$folder/none" PLINTH_DRIVER_FILES="$folder/driver $folder/driver" "$@" \
        "$bundle/plinth" >"$folder/out" 2>"$folder/said" || fail "start $*"
}
# expect_found FOLDER: it is among those to look in, and nothing was said.
expect_found() {
    grep -qxF "$1" "$folder/out" || fail "$1 is not looked in"
    [ ! -s "$folder/said" ] || fail "something is said"
}

start
[ "$(wc -l <"$folder/said")" = 1 ] || fail "not one line where nothing is"
for words in "not libcudart.so.13, libcublasLt.so.13, libnvrtc.so.13, libcudnn.so.9," "set CUDA_HOME" "pip install nvidia-cuda-runtime"; do
    grep -qF -- "$words" "$folder/said" || fail "not said: $words"
done
start PLINTH_DRIVER_FILES="$folder/no driver"
[ ! -s "$folder/said" ] || fail "a machine without a driver is told of CUDA"

libraries "$folder/toolkit/lib64" $all
start CUDA_HOME="$folder/toolkit"
expect_found "$folder/toolkit/lib64"

# A toolkit without cuDNN: that one is named. A wheel beside it helps.
libraries "$folder/bare/lib64" libcudart.so.13 libcublasLt.so.13 libnvrtc.so.13
start CUDA_HOME="$folder/bare"
grep -qF "but not libcudnn.so.9, so" "$folder/said" || fail "the one that is missing is not named alone"
mkdir -p "$folder/venv/bin" && printf '#!/bin/sh\nexit 1\n' >"$folder/venv/bin/python3" && chmod +x "$folder/venv/bin/python3"
packages="$folder/venv/lib/python3.12/site-packages/nvidia"
libraries "$packages/cudnn/lib" libcudnn.so.9
start CUDA_HOME="$folder/bare" PATH="$folder/venv/bin:$folder/tools"
expect_found "$packages/cudnn/lib"
expect_found "$folder/bare/lib64"

# Wheels alone, of CUDA 13 in one folder.
libraries "$packages/cu13/lib" libcudart.so.13 libcublasLt.so.13 libnvrtc.so.13
libraries "$packages/other/lib" libother.so.1
start PATH="$folder/venv/bin:$folder/tools"
expect_found "$packages/cu13/lib"
expect_found "$packages/cudnn/lib"
if grep -qF other "$folder/out"; then fail "a folder without CUDA's libraries is looked in"; fi
libraries "$folder/home/.local/lib/python3.12/site-packages/nvidia/cu13/lib" $all
start PATH="$folder/venv/bin:$folder/tools" HOME="$folder/home"
expect_found "$folder/home/.local/lib/python3.12/site-packages/nvidia/cu13/lib"
rm -r "$folder/home"

# A python3 in PATH that stands for another one says where its packages are.
mkdir "$folder/shims" && printf '#!/bin/sh\necho "%s/elsewhere"\n' "$folder" >"$folder/shims/python3" && chmod +x "$folder/shims/python3"
libraries "$folder/elsewhere/nvidia/cu13/lib" $all
start PATH="$folder/shims:$folder/tools"
expect_found "$folder/elsewhere/nvidia/cu13/lib"

# What the loader finds by itself, or the caller names.
printf '\t%s (libc6,x86-64) => /opt/lib\n' $all >"$folder/known"
start
[ ! -s "$folder/said" ] || fail "libraries that the loader knows are missed"
rm "$folder/known"
start LD_LIBRARY_PATH="/nonexistent:$folder/toolkit/lib64"
expect_found "$folder/toolkit/lib64"

# Without the module nothing of CUDA is looked for.
rm "$bundle/bin/libplinth_cuda.so"
start CUDA_HOME="$folder/toolkit"
if grep -qF toolkit "$folder/out" || [ -s "$folder/said" ]; then fail "a bundle of the CPU alone looks for CUDA"; fi
echo "CUDA's libraries are found where they lie"
