# SPDX-License-Identifier: Apache-2.0
"""Wrong input ends every run before its first step, with one clear line that names what is wrong and where, and with the exit
code of its kind."""

import os
import re
import resource
import shutil
import subprocess
import sys

import plinth_runs as runs

CONFIG, DATA, CHECKPOINT, IO = 2, 3, 4, 5
TINY = "gpt/tiny.yaml"
RATES = r"written and made durable at \d+ MB/s, read (past the page cache|from memory) at \d+ MB/s"
OVERRIDES = {"train.steps": 2, "optimizer.warmup_steps": 0, "data.sequence_length": 32, "train.lanes": 4}

problems = []  # of all rows, so that one run shows them all


def expect_refusal(what, run, code, words):
    """`words` must all be in the one line of the program's that says what is wrong."""
    got = run.wait(60)
    # All ranks find most mistakes; the first one speaks, but a slow machine may let another repeat the line.
    said = list(dict.fromkeys(re.sub(r"^plinth: rank \d+ on \S+: ", "plinth: ", line) for line in run.lines
                              if line.startswith("plinth: ")))
    if got != code or len(said) != 1 or not all(word in said[0] for word in words):
        problem = f"exit code {got}, expected {code} and one line that names {', '.join(words)}"
    elif any(line.startswith("step ") for line in run.lines):
        problem = "training started"
    else:
        print(f"{what}: exit code {got}: {said[0]}", flush=True)
        return
    problems.append(f"{what}: {problem}")
    print(f"NOT REFUSED {problems[-1]}", *run.lines[-10:], sep="\n    ", flush=True)


def refuse(lab, what, code, words, changes, ranks=1, config=TINY):
    run = lab.start("refused-" + re.sub(r"\W+", "-", what), config, {**OVERRIDES, **changes}, ranks)
    expect_refusal(what, run, code, words)


def command_line(lab, options):
    for words, expected in ((["pretran"], "did you mean 'pretrain'?"), (["plot", "--dry-run", "x"], "'--dry-run' is no option here"),
                            (["pretrain", "--dryrun", "x"], "did you mean '--dry-run'?"),
                            (["data"], "subcommand"), ([], "subcommand")):
        done = subprocess.run([lab.plinth, *words], text=True, capture_output=True)
        if done.returncode != 2 or expected not in done.stderr:
            problems.append(f"{words}: exit code {done.returncode}, expected 2 and '{expected}'")
            print("NOT REFUSED", problems[-1], done.stderr)
        else:
            print(f"{words}: {done.stderr.splitlines()[0]}")


    for words in (["verify", TINY], ["data", "prepare", "prepare.inputs=[x]", "prepare.output=y"], ["plot", "x"]):
        config = [str(runs.SOURCE / "configs" / word) if word == TINY else word for word in words]
        run = runs.Process(["mpirun", "--oversubscribe", "-n", "2", lab.plinth, *config])
        code = run.wait(60)
        if code != 2 or not any("a launcher started 2: run it without mpirun" in line for line in run.lines):
            problems.append(f"{words} on two ranks: exit code {code}")
            print("NOT REFUSED", problems[-1], *run.lines[-10:], sep="\n    ")


def doctor(lab, options):
    """Three ranks of one thread each on more cores than that are sound; on fewer, it says so."""
    for words, code, expected in ((["fodler=x"], 2, "folder=PATH"), (["folder=/nonexistent"], 5, "/nonexistent")):
        done = subprocess.run([lab.plinth, "doctor", *words], text=True, capture_output=True)
        if done.returncode != code or expected not in done.stderr:
            problems.append(f"doctor {words}: exit code {done.returncode}, expected {code} and '{expected}'")
    ranks = len(os.sched_getaffinity(0)) + 1
    run = runs.Process(["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks), lab.plinth, "doctor",
                        f"folder={lab.folder}"])
    code = run.wait()
    named = [line for line in run.lines if "threads of all ranks share" in line]
    rows = [line for line in run.lines if re.match(r"\d+ +\S+ +[\d,-]+ +1 ", line)]
    devices = [line.split(":")[0] for line in run.lines if re.match(r"(GPUs|NCCL): *(none \(.+\)|[\d.]+)?$", line)]
    if devices != ["GPUs", "NCCL"]:
        problems.append(f"doctor on {ranks} ranks names the devices {devices}")
    disk = [line for line in run.lines if re.match(rf"disk: {re.escape(str(lab.folder))}: 256 MiB {RATES}", line)]
    here, nowhere = (subprocess.run([lab.plinth, "doctor"], text=True, capture_output=True, cwd=folder).stdout
                     for folder in (lab.folder, "/proc"))  # where nobody may create a file
    if len(disk) != 1 or not re.search(rf"^disk: the current folder: 64 MiB {RATES}.*; folder=PATH", here, re.M) or \
            not re.search(r"^disk: not measured in the current folder \(.+\); folder=PATH", nowhere, re.M):
        problems.append(f"doctor does not measure the disk: {disk}\n{here}\n{nowhere}")
    if code != 5 or len(named) != 1 or len(rows) != ranks or list(lab.folder.glob("plinth-doctor*")):
        problems.append(f"doctor on {ranks} ranks: exit code {code}, {len(named)} warnings, {len(rows)} rows")
    print(*run.lines, sep="\n")


def configuration(lab, options):
    for ranks in (1, 2):
        refuse(lab, f"unknown key, {ranks} ranks", CONFIG, ["train.stepz", "did you mean steps"], {"train.stepz": 5}, ranks)
    refuse(lab, "mistyped value", CONFIG, ["train.steps", "many"], {"train.steps": "many"})
    refuse(lab, "fraction for an integer", CONFIG, ["train.steps", "2.5"], {"train.steps": "2.5"})
    refuse(lab, "value out of range", CONFIG, ["optimizer.beta1"], {"optimizer.beta1": 1})
    refuse(lab, "unknown choice", CONFIG, ["train.dtype", "fp8", "bf16"], {"train.dtype": "fp8"})
    refuse(lab, "batch not divisible", CONFIG, ["train.global_batch", "9", "2"], {"train.global_batch": 9})
    refuse(lab, "heads do not divide the width", CONFIG, ["model.heads", "5"], {"model.heads": 5})
    refuse(lab, "a model that reads what it predicts", CONFIG, ["model.causal"], {"model.causal": "false"})
    refuse(lab, "more lanes than micro-batches", CONFIG, ["train.lanes", "5"], {"train.lanes": 5})
    refuse(lab, "sequence longer than positions", CONFIG, ["data.sequence_length", "65", "64"],
           {"data.sequence_length": 65})
    refuse(lab, "more ranks than micro-batches", CONFIG, ["train.global_batch", "2 micro-batches", "3"],
           {"train.global_batch": 4, "train.lanes": 0}, 3)
    refuse(lab, "more ranks than lanes", CONFIG, ["train.lanes", "2"], {"train.lanes": 2}, 3)
    refuse(lab, "mesh of other size", CONFIG, ["parallel.data", "3"], {"parallel.data": 3}, 2)
    refuse(lab, "tensor ranks that do not divide the heads", CONFIG, ["parallel.tensor", "model.heads 4"],
           {"parallel.tensor": 3}, 3)
    refuse(lab, "more stages than layers", CONFIG, ["parallel.pipeline", "3 stages"], {"parallel.pipeline": 3}, 3)
    refuse(lab, "chunks without a schedule for them", CONFIG, ["parallel.virtual_stages", "interleaved"],
           {"parallel.pipeline": 2, "parallel.virtual_stages": 2}, 2)
    refuse(lab, "a cut that does not fit", CONFIG, ["parallel.stage_layers", "[1, 2]"],
           {"parallel.pipeline": 2, "parallel.stage_layers": "[1, 2]"}, 2)
    refuse(lab, "shared gradients in lanes of two slots", CONFIG, ["parallel.zero", "train.lanes=4"],
           {"parallel.zero": 2, "train.lanes": 2}, 2)
    refuse(lab, "no such configuration file", CONFIG, ["missing.yaml"], {}, config="gpt/missing.yaml")
    for what, text, words in (
            ("unknown key in the file", "train:\n  steps: 2\n  stepz: 3\n", ["wrong.yaml:3:3: ", "train.stepz", "did you mean steps"]),
            ("not YAML", "train: [\n", ["wrong.yaml"]),
            ("binary file", "\x00\x01\x02", ["wrong.yaml"])):
        (lab.folder / "wrong.yaml").write_text(text)
        refuse(lab, what, CONFIG, words, {}, config=lab.folder / "wrong.yaml")


def damaged_copy(lab, name, damage):
    """A data set with its training shard altered."""
    folder = lab.folder / name
    shutil.copytree(lab.data, folder)
    shard = max((path for path in folder.rglob("*") if path.suffix != ".json" and "train" in path.name),
                key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    shard.write_bytes(damage(content))
    return folder, shard.name


def data(lab, options):
    refuse(lab, "no such data set", DATA, ["nowhere: no such file"], {"data.sources.0.path": lab.folder / "nowhere"})
    for key in ("data.sources.0.path", "data.held_out"):
        refuse(lab, f"a file where a data set is expected, {key}", DATA, ["corpus.jsonl: is a file", "plinth data prepare"],
               {key: lab.folder / "corpus.jsonl"})
    refuse(lab, "vocabulary larger than the model's", CONFIG, ["model.vocab_size", "100", "257"],
           {"model.vocab_size": 100})
    for what, damage in (("truncated shard", lambda content: content[:len(content) // 2]),
                         ("empty shard", lambda content: b""),
                         ("damaged head of a shard", lambda content: b"\xff" * 16 + content[16:]),
                         ("flipped bit in a shard", lambda content: content[:-8] + bytes([content[-8] ^ 1]) + content[-7:])):
        folder, shard = damaged_copy(lab, what.replace(" ", "-"), damage)
        for ranks in (1, 2):
            refuse(lab, f"{what}, {ranks} ranks", DATA, [shard], {"data.sources.0.path": folder}, ranks)
    folder = lab.folder / "manifest"
    shutil.copytree(lab.data, folder)
    (folder / "manifest.json").write_text('{"format": ')
    refuse(lab, "damaged manifest of a data set", DATA, ["manifest.json"], {"data.sources.0.path": folder})
    runs.write_corpus(lab.folder / "short.jsonl", documents=1)
    lab.call([lab.plinth, "data", "prepare", f"prepare.inputs=[{lab.folder}/short.jsonl]",
              f"prepare.output={lab.folder}/short", "prepare.held_out=0"])
    refuse(lab, "data shorter than one sample", CONFIG, ["short"],
           {"data.sources.0.path": lab.folder / "short", "data.sequence_length": 4096, "model.max_positions": 4096})


def prepare(lab, options):
    def expect(what, code, words, changes):
        overrides = {"prepare.inputs": f"[{lab.folder}/input.jsonl]", "prepare.output": lab.folder / "prepared", **changes}
        run = runs.Process([lab.plinth, "data", "prepare", *(f"{key}={value}" for key, value in overrides.items())])
        expect_refusal(what, run, code, words)

    source = lab.folder / "input.jsonl"
    expect("missing input", CONFIG, ["input.jsonl"], {})
    source.write_text("")
    expect("empty input", DATA, ["prepare.inputs: none of 0 documents"], {})
    source.write_text('{"title": "one"}\n{"text": \n')
    expect("no line with text", DATA, ["input.jsonl:1: no member", "2 of 2 documents", "prepare.field"], {})
    source.write_text('{"text": ""}\n{"text": " "}\n')
    expect("blank lines alone", DATA, ["prepare.inputs: none of 2 documents", "dropped: 2 blank"], {})
    source.write_text('{"text": "one"}\n')
    expect("no such tokenizer", DATA, ["no-tokenizer"], {"prepare.tokenizer": lab.folder / "no-tokenizer"})
    expect("unknown key", CONFIG, ["prepare.inputz"], {"prepare.inputz": 1})
    source.write_text('{"text": "one"}\n{"text": 2}\n')
    expect("more bad lines than allowed", DATA, ["input.jsonl:2: ", "raise prepare.max_bad_lines"], {"prepare.max_bad_lines": 0})
    source.write_text('{"text": "' + "long " * 1000 + '"}\n')
    limit = {"prepare.max_document_bytes": 4096}
    expect("a line too long", DATA, ["input.jsonl:1: ", "raise prepare.max_document_bytes"], limit)
    plain = lab.folder / "plain"
    plain.mkdir()
    (plain / "text.txt").write_bytes(b"first paragraph\n\n" * 500 + b"not UTF-8: \xff\n")
    limit["prepare.inputs"] = f"[{plain}]"
    expect("a document too long", DATA, ["text.txt:1: ", "set prepare.document_separator", "raise prepare.max_document_bytes"],
           limit)
    expect("a program in place of a text", DATA, [f"{lab.plinth}: is no text: ", "% of its first 65536 bytes", "prepare.inputs"],
           {"prepare.inputs": f"[{lab.plinth}]"})
    (plain / "picture.png").write_bytes(b"\x89PNG\r\n" + bytes(1000))
    (plain / "loop").symlink_to(".")
    (plain / "dangling").symlink_to("nowhere")
    os.mkfifo(plain / "pipe")
    limit.update({"prepare.document_separator": "blank_line", "prepare.invalid_utf8": "drop", "prepare.held_out": 0,
                  "prepare.output": lab.folder / "cut"})
    done = subprocess.run([lab.plinth, "data", "prepare", *(f"{key}={value}" for key, value in limit.items())], text=True,
                          capture_output=True, timeout=60)
    said = done.stdout + done.stderr
    for words in ("read 501 documents", "dropped 1 documents: invalid_utf8", "dropped 499 documents: duplicate",
                  "dropped 1 files: binary", f"1 binary file was left out; the first is {plain}/picture.png: ",
                  f"2 names lead to no file and were skipped; the first: {plain}/dangling is a link to nothing"):
        if done.returncode != 0 or words not in said:
            problems.append(f"paragraphs of a folder with odd names: exit code {done.returncode}, no '{words}' in: {said}")
    source.write_text('{"text": "one"}\n')
    expect("folder that cannot be made", IO, ["/proc/plinth"], {"prepare.output": "/proc/plinth"})
    expect("folder of another data set", CONFIG, [str(lab.data)], {"prepare.output": lab.data})


def crc32c(content):
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def checkpoint(lab, options):
    trained = lab.train("trained", TINY, OVERRIDES)
    for what, changes in (("width", {"model.width": 32}), ("layers", {"model.layers": 3}),
                          ("seed", {"train.seed": 2}), ("sequence", {"data.sequence_length": 16})):
        run = lab.start("trained", TINY, {**OVERRIDES, **changes}, 2)
        expect_refusal(f"resume with another {what}", run, CHECKPOINT, [*changes, "checkpoint"])
    refuse(lab, "weights of another model", CHECKPOINT, ["model."],
           {"checkpoint.init": trained, "model.width": 32}, 2)
    other = lab.folder / "other-tokenizer"  # its ids fit into the model, and mean other bytes than they learned
    lab.call([lab.plinth, "data", "prepare", f"prepare.inputs=[{lab.folder}/corpus.jsonl]", f"prepare.output={other}",
              "prepare.held_out=0.1", "prepare.tokenizer=byte256"])
    foreign = {"data.sources.0.path": other, "data.tokenizer": "byte256", "train.steps": 4}
    refuse(lab, "data of another tokenizer than the configuration's", CONFIG, ["data.tokenizer=byte:", other.name],
           {"data.sources.0.path": other})
    for ranks in (1, 2):
        run = lab.start("trained", TINY, {**OVERRIDES, **foreign}, ranks)
        expect_refusal(f"resume with another tokenizer, {ranks} ranks", run, CHECKPOINT, ["tokenizer", "trained", other.name])
        refuse(lab, f"weights that learned another tokenizer, {ranks} ranks", CHECKPOINT, ["tokenizer", "trained", other.name],
               {**foreign, "checkpoint.init": trained}, ranks)
    refuse(lab, "no checkpoint to begin from", CHECKPOINT, ["no-run"], {"checkpoint.init": lab.folder / "no-run"})

    def altered(what, words, alter):
        name = f"altered-{what.replace(' ', '-')}"
        folder = lab.fork(trained, name, 2)
        alter(runs.newest_checkpoint(folder))
        expect_refusal(what, lab.start(name, TINY, OVERRIDES, 2), CHECKPOINT, words)

    def newer(folder):
        """What a program of format 2 might have written, its checksum right."""
        text = (folder / "COMMIT").read_text().replace("plinth checkpoint 1", "plinth checkpoint 2")
        body = text[:text.index("crc32c ")]
        (folder / "COMMIT").write_text(f"{body}crc32c {crc32c(body.encode()):08x}\n")

    def flip(folder):
        content = bytearray((folder / "data-00000.bin").read_bytes())
        content[1000] ^= 1
        (folder / "data-00000.bin").write_bytes(content)

    altered("checkpoint of a newer format", ["COMMIT", "newer", "2"], newer)
    altered("the only checkpoint is damaged", ["checkpoint"], flip)


def dry_run(lab, options):
    """What a run would refuse, its dry run refuses too; what it accepts is planned, and nothing is written."""
    trained = lab.train("trained", TINY, OVERRIDES)
    nowhere = {"data.sources.0.path": lab.folder / "nowhere"}

    def start(name, changes, ranks=1):
        return runs.Process([*lab.command(name, TINY, {**OVERRIDES, **changes}, ranks), "--dry-run"])

    def accept(what, changes, *words, name="planned"):
        run = start(name, changes)
        code = run.wait(60)
        missing = [word for word in ("# memory a rank", *words) if not any(word in line for line in run.lines)]
        if code != 0 or missing or (lab.folder / "planned").exists():
            problems.append(f"dry run, {what}: exit code {code}, missing {missing}")
            print("NOT PLANNED", problems[-1], *run.lines, sep="\n    ")

    for ranks in (1, 2):
        expect_refusal("dry run, a layout that is not there",
                       start("planned", {"parallel.zero": 2, "train.lanes": 2}, ranks), CONFIG, ["parallel.zero"])
    expect_refusal("dry run, no checkpoint to begin from", start("planned", {"checkpoint.init": lab.folder / "no-run"}, 2),
                   CHECKPOINT, ["no-run"])
    expect_refusal("dry run, weights of another model", start("planned", {"checkpoint.init": trained, "model.width": 32}),
                   CHECKPOINT, ["model.embedding.tokens.weight", "[257, 64]", "[257, 32]"])
    expect_refusal("dry run, a small vocabulary", start("planned", {"model.vocab_size": 100}), CONFIG, ["model.vocab_size"])
    expect_refusal("dry run, 8-bit products that are no multiples of 16",
                   start("planned", {"train.fp8": "current", "train.dtype": "bf16", "model.width": 40}), CONFIG,
                   ["train.fp8", "model.width is 40"])
    expect_refusal("dry run, 8-bit products beside fp32", start("planned", {"train.fp8": "current", "train.dtype": "fp32"}),
                   CONFIG, ["train.fp8", "train.dtype=bf16"])
    expect_refusal("dry run, another tokenizer", start("planned", {"data.tokenizer": "byte256"}), CONFIG, ["data.tokenizer"])
    expect_refusal("dry run, a file where a data set is expected",
                   start("planned", {"data.sources.0.path": lab.folder / "corpus.jsonl"}), DATA, ["corpus.jsonl: is a file"])
    expect_refusal("dry run, a file beside a data set that is not there yet",
                   start("planned", {**nowhere, "data.held_out": lab.folder / "corpus.jsonl", "train.eval_every": 1}), DATA,
                   ["corpus.jsonl: is a file"])
    expect_refusal("dry run, long samples", start("planned", {"data.sequence_length": 1 << 20, "model.max_positions": 1 << 20}),
                   CONFIG, ["one sequence of 1048576"])
    expect_refusal("dry run, resume with another seed", start("trained", {"train.seed": 2}), CHECKPOINT, ["train.seed"])
    accept("fresh", {}, "# begins with         fresh weights", "# held out")
    accept("from weights", {"checkpoint.init": trained}, "# begins with         the weights of")
    accept("resume", {"train.steps": 4}, "# goes on from", "at step 2", name="trained")
    accept("data to come", nowhere, "warning: data: ", "nowhere is not there yet")


def system(lab, options):
    refuse(lab, "run folder that cannot be made", IO, ["/proc/plinth"], {"run.folder": "/proc/plinth"})
    (lab.folder / "occupied").write_text("")
    refuse(lab, "a file where the run folder belongs", IO, ["occupied"], {"run.folder": lab.folder / "occupied"})


def memory(lab, options):
    """Where memory does not suffice, a plan and a run name settings with which it does, and they are right."""
    def named(line):
        """The settings of one rank that a line says to fit."""
        fit = line.partition("it fits by the plan with ")[2].partition("; not enough alone")[0]
        words = [re.sub(r" \(.*", "", each) for each in fit.split(", or ")]
        return [dict(word.split("=") for word in each.split()) for each in words if each and " ranks" not in each]

    def said(run, words):
        return next((line for line in run.lines if words in line), "")

    large = {"run.device": "cuda", "train.global_batch": 1024, "train.micro_batch": 1024, "train.recompute": "none",
             "data.sources.0.path": lab.folder / "nowhere"}

    def plan(changes):
        run = runs.Process([*lab.command("planned", "gpt/gpt2_124m.yaml", {**large, **changes}), "--dry-run"])
        if run.wait(60) != 0:
            problems.append("dry run of a large model")
            print("NOT PLANNED", *run.lines, sep="\n    ")
        return said(run, "# does not fit")

    large_line = plan({})
    settings = named(large_line)
    if not settings:
        problems.append(f"dry run of a large model: no setting that fits in '{large_line}'")
    for setting in settings:
        if line := plan(setting):
            problems.append(f"dry run with {setting}: {line}")
    print(large_line)

    # Activations of one large micro-batch, in an address space that has no room for them.
    crowded = {"run.device": "cpu", "run.threads": 1, "model.width": 256, "model.layers": 4, "train.steps": 1,
               "train.global_batch": 256, "train.micro_batch": 256, "train.lanes": 1, "train.recompute": "none",
               "optimizer.warmup_steps": 0, "checkpoint.async": "false"}

    address_space = 1 << 30

    def bounded():
        resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))

    def start(name, changes):
        return runs.Process(lab.command(name, TINY, {**crowded, **changes}), preexec=bounded)

    run = start("crowded", {})
    expect_refusal("no memory for a micro-batch", run, IO,
                   ["out of memory: the system has no ", "this process holds ", "activations and other tensors ", "weights ",
                    "gradients ", "optimizer ", "it fits by the plan with "])
    settings = named(said(run, "it fits by the plan with "))
    if not any("train.micro_batch" in setting for setting in settings):
        problems.append(f"no memory for a micro-batch: {settings} does not name a smaller one")
    for i, setting in enumerate(settings):
        run = start(f"roomy-{i}", setting)
        if run.wait(120) != 0:
            problems.append(f"a run with {setting}, which was said to fit, ended with {run.process.returncode}")
            print("NO ROOM", *run.lines, sep="\n    ")


def permission(lab, options):
    """As a user who may not: root, who may read and write everything, becomes nobody for that."""
    def become_nobody():
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)

    try:
        sound = subprocess.run([lab.plinth, "--version"], preexec_fn=become_nobody, capture_output=True).returncode == 0
    except (OSError, subprocess.SubprocessError) as error:
        sound, reason = False, error
    else:
        reason = "it does not start"
    if not sound:
        print(f"SKIPPED: another user than root cannot run {lab.plinth}: {reason}")
        sys.exit(77)
    lab.folder.chmod(0o755)
    closed = lab.folder / "closed"
    closed.mkdir(mode=0o555)
    unreadable = shutil.copytree(lab.data, lab.folder / "unreadable")
    (unreadable / "manifest.json").chmod(0)
    hidden = shutil.copytree(lab.data, lab.folder / "hidden")
    hidden.chmod(0)
    open_to_all = lab.folder / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    for what, words, changes in (
            ("no permission to write", ["closed", "Permission denied"], {"run.folder": closed / "run"}),
            ("no permission to read", ["unreadable", "Permission denied"],
             {"data.sources.0.path": unreadable, "run.folder": open_to_all / "run"}),
            ("no permission to enter", ["hidden", "Permission denied"],
             {"data.sources.0.path": hidden, "run.folder": open_to_all / "run"})):
        run = runs.Process(lab.command("nobody", TINY, {**OVERRIDES, **changes}), preexec=become_nobody)
        expect_refusal(what, run, IO, words)
    hidden.chmod(0o755)


def full_disk(lab, options):
    """A run does not start where the disk has no room for its checkpoints. A file-size limit stands for a disk that fills up
    meanwhile: the last save fails, and the run says so and ends with the code of I/O."""
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    endless = {"train.steps": 10**9, "checkpoint.every": 1, "checkpoint.keep": 10**8}
    for ranks in (1, 2):
        refuse(lab, f"a disk too small, {ranks} ranks", IO, ["checkpoint.folder: ", "100000001 checkpoints", "checkpoint.keep"],
               endless, ranks)
    run = runs.Process([*lab.command("planned", TINY, {**OVERRIDES, **endless}), "--dry-run"])
    expect_refusal("dry run, a disk too small", run, IO, ["checkpoint.folder: ", "100000001 checkpoints"])
    if not any(line.startswith("# memory a rank ") for line in run.lines):
        runs.fail("dry run, a disk too small: the plan is not printed before the refusal", run.lines)
    command = lab.command("full", TINY, OVERRIDES, 1)
    run = runs.Process(command, preexec=limit)
    code = run.wait()
    said = [line for line in run.lines if line.startswith("plinth: ")]
    if code != IO or len(said) != 1 or "checkpoint of step 2 was not saved" not in said[0]:
        runs.fail(f"full disk: exit code {code}, expected {IO} and one line about the checkpoint", run.lines)
    print(f"full disk: exit code {code}: {said[0]}")
    with open("/dev/full", "w") as full:
        code = subprocess.run(lab.command("mute", TINY, OVERRIDES, 1), stdout=full, stderr=full, timeout=60).returncode
        refused = subprocess.run(lab.command("mute", TINY, {"train.steps": -1}, 1), stderr=full, timeout=60).returncode
    if (code, refused) != (0, CONFIG):
        runs.fail(f"output on a full disk: exit codes {code} and {refused}, expected 0 and {CONFIG}", [])
    print("a run whose output goes to a full disk reaches its end")
    results_on_full_disk(lab)


def results_on_full_disk(lab):
    """A result that is cut is no success; what a stage only says beside its files may be lost."""
    trained = lab.train("trained", TINY, OVERRIDES)
    corpus = lab.folder / "corpus.jsonl"
    results = {
        "tokenizer encode": ["byte", corpus], "tokenizer encode counts": ["byte", corpus, "print=counts"],
        "data inspect": [lab.data], "checkpoint inspect": [trained], "checkpoint verify": [trained],
        "plot": [trained / "metrics.jsonl"], "config reference": [],
        "generate": [f"generate.checkpoint={trained}", "generate.prompts=[a, b]", "generate.max_tokens=2"],
        "evaluate": [f"evaluate.checkpoint={trained}", f"evaluate.data=[{lab.data}]", "evaluate.max_tokens=64"],
        "pretrain --dry-run": lab.command("planned", TINY, OVERRIDES)[2:]}
    for stage, words in results.items():
        command = [str(word) for word in [lab.plinth, *stage.removesuffix(" counts").split(), *words]]
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        said = [line for line in done.stderr.splitlines() if line.startswith("plinth: ")]
        sound = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60).returncode
        if done.returncode != IO or len(said) != 1 or "standard output: No space left" not in said[0] or sound != 0:
            problems.append(f"{stage} on a full disk: exit code {done.returncode}, expected {IO}, elsewhere {sound}: {said}")
    with open("/dev/full", "w") as full:
        command = [lab.plinth, "data", "prepare", f"prepare.inputs=[{corpus}]", f"prepare.output={lab.folder}/silent"]
        code = subprocess.run(command, stdout=full, timeout=60).returncode
    if code != 0 or not (lab.folder / "silent" / "manifest.json").exists():
        problems.append(f"a preparation that cannot say how far it is: exit code {code}, expected 0")
    print(f"{len(results)} stages end with {IO} when their result goes to a full disk")


def table(case):
    def run(lab, options):
        case(lab, options)
        if problems:
            runs.fail(f"{len(problems)} rows of the table", problems)

    return run


if __name__ == "__main__":
    CASES = (command_line, doctor, configuration, data, prepare, checkpoint, dry_run, system, permission, full_disk, memory)
    runs.main({case.__name__: table(case) for case in CASES})
