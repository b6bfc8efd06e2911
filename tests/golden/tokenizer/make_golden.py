# SPDX-License-Identifier: Apache-2.0
"""Makes the golden vectors of the byte-level BPE from an independent implementation.

    python3 -m venv venv && venv/bin/pip install tokenizers tiktoken xxhash
    venv/bin/python make_golden.py vocab   TEXT...          trains tiny/ on plain text or JSONL files
    venv/bin/python make_golden.py hostile                  hostile.json: ids of hostile texts
    venv/bin/python make_golden.py large   TEXT...          trains large/ and makes large.json
    venv/bin/python make_golden.py large                    large.json of the vocabulary that is there
    venv/bin/python make_golden.py corpora GPT2_DIR FILE... gpt2_corpora.json: counts and hashes

The oracle is Hugging Face's `tokenizers`; with the vocabularies of 50,257 tokens texts are also encoded
by tiktoken, and the script stops where the two differ.

large/ has GPT-2's size, order of ids and pattern, but not its merges, which are no part of the project:
it was trained on texts in the public domain, the Universal Declaration of Human Rights in 380
languages and Shakespeare's plays. merges.txt.gz is all of it: the vocabulary follows from the merges.
passages.json holds texts in the public domain and some made for the test.
"""
import gzip
import json
import pathlib
import sys

import tokenizers
import xxhash

HERE = pathlib.Path(__file__).parent
END = "<|endoftext|>"

# name, [(text, repetitions), ...]
HOSTILE = [
    ("empty", []),
    ("words", [("Hello  world's 12345\n\n  x\u00a0y \u3000z caf\u00e9 \u4f60\u597d\U0001f642!!\r\n\tI'LL", 1)]),
    ("contractions", [("I'm you're we've they'll he'd don't it's 'S'T'RE 'sx ''s '\u2019s o'clock rock'n'roll", 1)]),
    ("composed", [("\u00e9\u00e8\u00fc\u1e9b\u0323 \uac00\u11a8 \u212b", 1)]),
    ("decomposed", [("e\u0301e\u0300u\u0308 \u1100\u1161\u11a8 A\u030a", 1)]),
    ("emoji joined", [("\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f1eb\U0001f1f7\U0001f44d\U0001f3ff", 1)]),
    ("cjk", [("\u5929\u5730\u7384\u9ec3\uff0c\u5b87\u5b99\u6d2a\u8352\u3002\u65e5\u672c\u8a9e\u30c6\u30ad\u30b9\u30c8 \ud55c\uad6d\uc5b4 \U00020000\U0002a6df", 1)]),
    ("right to left", [("\u0627\u0644\u0633\u0644\u0627\u0645 \u0639\u0644\u064a\u0643\u0645 \u202b\u05e9\u05dc\u05d5\u05dd\u202c \u200f123\u200e", 1)]),
    ("odd spaces", [("a\u180eb\u0085c\u2028d\u2029e\u00a0f\u3000g\u200bh\u205fi\u1680j\ufeffk\u001cl\u001fm\u000bn\u000co", 1)]),
    ("mongolian separator", [(" \u180e \u180e\u180e\n\u180ex\u180e", 1)]),
    ("spaces before separator", [("  \u0085  \u2028  x", 1)]),
    ("lone marks", [("\u0301 \u0301\u0301a\u20dd\u0483\u0488 \u093f\u0915", 1)]),
    ("controls", [("\0a\0\0b \x01\x02\x7f\x80\x9f", 1)]),
    ("digits", [("0123 \u0661\u0662\u0663 \u0967\u0968 \u216b\u2460\u00bd\u00b2 \U0001d7d8 12,345.678e-9 \uff11\uff12", 1)]),
    ("letters of other kinds", [("\u01c5 \u02b0\u02b1 \u00aa\u00ba \u05d0\u2135 \U00010400\U0001d400 \ua015", 1)]),
    ("noncharacters", [("\ufffe\uffff\U0010ffff\ufffd\ue000\U000f0000", 1)]),
    ("special text", [(f"a{END}b <|endoftext|", 1)]),
    ("long word", [("a", 100_000)]),
    ("long varied word", [("abcdefghijklmnopqrstuvwxyzthe", 3_000), ("ing", 1)]),
    ("long spaces", [("x", 1), (" ", 50_000), ("y", 1)]),
    ("long newlines", [("\n", 20_000), ("end", 1)]),
    ("newlines and spaces", [(" \n\n  \n\t \r\n ", 200), ("z ", 1)]),
    ("long punctuation", [("=-", 30_000)]),
    ("long digits", [("31415926535", 5_000)]),
    ("trailing spaces", [("word   ", 1)]),
    ("prose", [("The quick brown fox, who wasn't lazy, jumped over 13 dogs; \"why?\" they asked.\n", 3)]),
    ("code", [("for (int i = 0; i < n; ++i) {\n    sum += x[i] * 0x1F;\n}\n", 2)]),
]


def load(folder):
    """The oracle: GPT-2's pre-tokeniser and merges, no special tokens."""
    model = tokenizers.models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    oracle = tokenizers.Tokenizer(model)
    oracle.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return oracle


def documents(path):
    text = path.read_bytes().decode()
    if path.suffix == ".jsonl":
        return [json.loads(line)["text"] for line in text.split("\n") if line]
    return [text]


def digest(ids):
    return xxhash.xxh3_64_hexdigest(b"".join(i.to_bytes(4, "little") for i in ids))


def write(name, value):
    (HERE / name).write_text(json.dumps(value, indent=1, ensure_ascii=True) + "\n")
    print(f"wrote {name}")


def make_vocab(paths):
    oracle = tokenizers.Tokenizer(tokenizers.models.BPE())
    oracle.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=[END],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    oracle.train_from_iterator((d for p in paths for d in documents(pathlib.Path(p))), trainer)
    (HERE / "tiny").mkdir(exist_ok=True)
    oracle.model.save(str(HERE / "tiny"))


def make_hostile():
    oracle = load(HERE / "tiny")
    cases = []
    for name, parts in HOSTILE:
        ids = oracle.encode("".join(text * times for text, times in parts)).ids
        case = {"name": name, "parts": parts, "count": len(ids), "xxh3_64": digest(ids)}
        if len(ids) <= 400:
            case["ids"] = ids
        cases.append(case)
    write("hostile.json", cases)


def byte_level():
    """The printable character of each byte, in the order of GPT-2's first ids."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {**{byte: chr(byte) for byte in plain}, **{byte: chr(256 + i) for i, byte in enumerate(others)}}


def train_large(paths):
    """merges.txt.gz: 50,000 merges, less those whose result an earlier one has made (the ids would
    leave a gap)."""
    oracle = tokenizers.Tokenizer(tokenizers.models.BPE())
    oracle.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=51_000,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    oracle.train_from_iterator((d for p in paths for d in documents(pathlib.Path(p))), trainer)
    made, kept = set(), []
    for left, right in json.loads(oracle.to_str())["model"]["merges"]:
        if left + right not in made and len(kept) < 50_000:
            made.add(left + right)
            kept.append(f"{left} {right}\n")
    (HERE / "large").mkdir(exist_ok=True)
    text = "".join(["#version: 0.2\n", *kept]).encode()
    (HERE / "large" / "merges.txt.gz").write_bytes(gzip.compress(text, 9, mtime=0))
    print(f"wrote large/merges.txt.gz: {len(kept)} merges")


def large_oracles():
    """The two oracles, and the bytes of each token but the last."""
    text = gzip.decompress((HERE / "large" / "merges.txt.gz").read_bytes()).decode()
    merges = [tuple(line.split(" ")) for line in text.splitlines()[1:]]
    characters = byte_level()
    tokens = [*characters.values(), *(left + right for left, right in merges)]
    model = tokenizers.models.BPE({token: i for i, token in enumerate([*tokens, END])}, merges)
    oracle = tokenizers.Tokenizer(model)
    oracle.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_of = {character: byte for byte, character in characters.items()}
    content = [bytes(byte_of[character] for character in token) for token in tokens]
    return oracle, second_oracle({token: i for i, token in enumerate(content)}), content


def is_text(content):
    try:
        content.decode()
        return True
    except UnicodeDecodeError:
        return False


def soups(texts):
    """20 texts of 1,000 pseudo-random tokens each: words that no training text had, in which the order of
    merges decides. The generator is a linear congruential one, written again in the test."""
    state = 7
    for _ in range(20):
        soup = b""
        for _ in range(1000):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            soup += texts[(state >> 33) % len(texts)]
        yield soup.decode()


def golden_case(name, ids, longest):
    case = {"name": name, "count": len(ids), "xxh3_64": digest(ids)}
    return {**case, "ids": ids} if len(ids) <= longest else case


def make_large():
    oracle, second, tokens = large_oracles()

    def encode(text):
        ids = oracle.encode(text).ids
        assert ids == second.encode_ordinary(text), f"the oracles differ: {text!r}"
        return ids

    texts = [token for token in tokens if is_text(token)]
    passages = json.loads((HERE / "passages.json").read_text())
    write("large.json", {
        "vocabulary": len(tokens) + 1,
        "passages": [golden_case(p["name"], encode(p["text"]), 60) for p in passages],
        "hostile": [golden_case(name, encode("".join(text * times for text, times in parts)), 60)
                    for name, parts in HOSTILE],
        "each_token": golden_case("", [i for text in texts for i in encode(text.decode())], 0),
        "soups": [golden_case("", encode(soup), 0) for soup in soups(texts)],
    })


def second_oracle(ranks):
    import tiktoken
    from tiktoken_ext.openai_public import r50k_pat_str

    return tiktoken.Encoding(
        "gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={END: len(ranks)}
    )


def make_corpora(folder, paths):
    oracle = load(folder)
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks

    second = second_oracle(
        data_gym_to_mergeable_bpe_ranks(str(folder / "merges.txt"), str(folder / "vocab.json"))
    )
    result = {}
    for path in map(pathlib.Path, paths):
        texts = documents(path)
        ids = []
        for text in texts:
            encoded = oracle.encode(text).ids
            assert encoded == second.encode_ordinary(text), f"the oracles differ in {path.name}"
            ids += encoded
        result[path.name] = {"documents": len(texts), "tokens": len(ids), "xxh3_64": digest(ids)}
    hostile = [
        oracle.encode("".join(text * times for text, times in parts)).ids for _, parts in HOSTILE
    ]
    result["hostile"] = {
        "documents": len(hostile),
        "tokens": sum(map(len, hostile)),
        "xxh3_64": digest([i for ids in hostile for i in ids]),
    }
    write("gpt2_corpora.json", result)


if __name__ == "__main__":
    command, arguments = sys.argv[1], sys.argv[2:]
    if command == "vocab":
        make_vocab(arguments)
    elif command == "hostile":
        make_hostile()
    elif command == "large":
        if arguments:
            train_large(arguments)
        make_large()
    elif command == "corpora":
        make_corpora(pathlib.Path(arguments[0]), arguments[1:])
    else:
        sys.exit(__doc__)
