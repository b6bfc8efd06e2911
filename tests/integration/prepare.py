# SPDX-License-Identifier: Apache-2.0
"""What `plinth data prepare` takes from the machine, by the kernel's own account."""

import os
import random
import subprocess

import plinth_runs as runs

MIB = 1 << 20


def write_documents(path, size, seed):
    """`size` bytes of JSON lines of about 2 KB; no two are the same."""
    rng = random.Random(seed)
    syllables = [c + v for c in "bdfghklmnprst" for v in "aeiou"]
    text = " ".join("".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(20_000))
    written = 0
    with open(path, "w") as out:
        while written < size:
            start = rng.randrange(len(text) - 2500)
            line = '{"text": "%x %s"}\n' % (written, text[start:start + rng.randint(1500, 2500)])
            out.write(line)
            written += len(line)


def peak_of_prepare(lab, inputs, memory):
    """The largest resident set of a preparation on two threads, in bytes."""
    output = lab.folder / "prepared"
    command = [lab.plinth, "data", "prepare", f"prepare.inputs=[{inputs}]", f"prepare.output={output}",
               f"prepare.memory={memory}", "prepare.threads=2"]
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
    _, status, use = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        runs.fail(f"{command} ended with {process.returncode}")
    lab.call(["rm", "-r", output])
    return use.ru_maxrss * 1024


def memory(lab, options):
    """prepare.memory bounds the process, however long the corpus is: beside it there are the program and its libraries,
    which a preparation of a few documents shows, and what the allocator has cut but not given back."""
    corpus = lab.folder / "long"
    corpus.mkdir()
    for number in range(2):
        write_documents(corpus / f"{number}.jsonl", 32 * MIB, number)
    least = peak_of_prepare(lab, lab.folder / "corpus.jsonl", 4 * MIB)
    bounded = peak_of_prepare(lab, corpus, 4 * MIB)
    free = peak_of_prepare(lab, corpus, 512 * MIB)
    bound = least + 12 * MIB
    print(f"64 MiB of text: {bounded / MIB:.1f} MiB with prepare.memory of 4 MiB, {free / MIB:.1f} MiB with 512 MiB; "
          f"a few documents take {least / MIB:.1f} MiB", flush=True)
    if bounded > bound:
        runs.fail(f"prepare.memory of 4 MiB is exceeded: more than {bound / MIB:.1f} MiB")
    if free <= 2 * bound:
        runs.fail("a preparation that spills nothing passes as well: the measure sees no memory")


if __name__ == "__main__":
    runs.main({"memory": memory})
