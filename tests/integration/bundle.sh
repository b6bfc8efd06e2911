#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# launch/bundle.sh: the folder, moved, works from another folder, with nothing in the environment and through a link; two ranks of
# its own mpirun compute what one rank computes; every library comes from the bundle; a folder that it did not write is left alone.
#   tests/integration/bundle.sh BUILD_FOLDER
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

fail() {
    echo "FAILED: $1"
    tail -n 20 "$folder"/log 2>/dev/null
    exit 1
}

mkdir "$folder/mine" && touch "$folder/mine/thesis"
"$root/launch/bundle.sh" "$folder/mine" "$1" >"$folder/log" 2>&1 && fail "it took a folder that holds something else"
[ -f "$folder/mine/thesis" ] || fail "it removed what was not its own"

"$root/launch/bundle.sh" "$folder/made" "$1" >"$folder/log" 2>&1 || fail "bundle.sh"
mkdir "$folder/far away" && mv "$folder/made" "$folder/far away/plinth 1"
bundle="$folder/far away/plinth 1"
ln -s "$bundle/plinth" "$folder/start"
cd "$folder" || exit 1

# bare COMMAND...: as on a machine that knows nothing of Plinth.
bare() {
    env -i PATH=/usr/bin:/bin HOME=/nonexistent OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "$@"
}

bare ./start --version >log 2>&1 || fail "plinth --version through a link"
if grep -q "$root" "$bundle"/plinth "$bundle"/bin/orted "$bundle"/etc/*; then fail "the bundle names this machine's folders"; fi
bare bash -c 'LD_DEBUG=libs "$0" --version' "$bundle/plinth" 2>&1 | grep 'calling init' | grep -E 'mpi|dnnl|protobuf|yaml' >log
[ "$(grep -c "$bundle" log)" = "$(wc -l <log)" ] && [ -s log ] || fail "libraries from outside the bundle"

printf 'one document of text, %s\n' $(seq 1 400) >text.txt
bare ./start data prepare "prepare.inputs=[$folder/text.txt]" prepare.output=data >log 2>&1 || fail "data prepare"
train=(pretrain "$bundle/configs/gpt/tiny.yaml" 'data.sources=[{path: data}]' train.steps=6 run.threads=1 checkpoint.every=0)
bare ./start "${train[@]}" run.folder=one >log 2>&1 || fail "one rank"
bare "$bundle/mpirun" -n 2 --oversubscribe --bind-to none "$bundle/plinth" "${train[@]}" run.folder=two >log 2>&1 || fail "two ranks"
for run in one two; do
    sed -nE 's/.*"kind": ?"step".*"loss_hex": ?"([^"]*)".*/\1/p' $run/metrics.jsonl >$run/losses
done
[ "$(wc -l <one/losses)" = 6 ] && cmp one/losses two/losses || fail "two ranks have other losses than one"

echo "the bundle works elsewhere"
