#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the two laws of CONTRIBUTING.md and a few house rules over every file of the repository.

    tests/lint/check_laws.py [--root DIR]      exit 0: sound; 1: `file:line: [rule] what is wrong` on stdout

The tables are in laws.py. Needs Python's standard library only; git, where it is there, names the files.
"""
import argparse
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import PurePosixPath

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import laws

CODE = (".h", ".cpp", ".cu", ".cuh")
HEADERS = (".h", ".cuh")
BINARY = (".bin", ".idx", ".gz", ".zst", ".png", ".pb", ".pdf")
TOP_FOLDERS = {folder.split("/")[0] for folder in laws.FLOORS} | set(laws.FREE)


@dataclass(frozen=True)
class Violation:
    path: str
    line: int
    rule: str
    message: str

    def __str__(self):
        return f"{self.path}:{self.line}: [{self.rule}] {self.message}"


def within(path, places):
    """Whether a file is one of `places` or lies below one of them."""
    return any(path == place or path.startswith(place + "/") for place in places)


def unit_of(path):
    """The longest row of laws.FLOORS that is or holds the file, or None."""
    folder = path
    while folder not in ("", "."):
        if folder in laws.FLOORS:
            return folder
        folder = str(PurePosixPath(folder).parent)
    return None


_TOKEN = re.compile(
    r"""//[^\n]* | /\*.*?\*/ | R"(?P<tag>[^()\s\\]*)\(.*?\)(?P=tag)" | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*'""",
    re.DOTALL | re.VERBOSE,
)


def _blank(match):
    return re.sub(r"[^\n]", " ", match.group())


def without_comments(text):
    """The text with comments blanked, line numbers kept; string literals stay."""
    return _TOKEN.sub(lambda m: _blank(m) if m.group().startswith("/") else m.group(), text)


def without_literals(text):
    """Only code: comments, strings and characters blanked. (A digit separator is no character.)"""
    return _TOKEN.sub(_blank, re.sub(r"(?<=[0-9a-fA-F])'(?=[0-9a-fA-F])", "_", text))


_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:"([^"]*)"|<([^>]*)>)', re.MULTILINE)


def includes(text):
    """(line, header, quoted) of every include."""
    code = without_comments(text)
    for match in _INCLUDE.finditer(code):
        line = code.count("\n", 0, match.start(1) if match.group(1) is not None else match.start(2)) + 1
        yield line, match.group(1) or match.group(2) or "", match.group(1) is not None


def door_of(header):
    """The row of laws.DOORS that an outside header belongs to, or None."""
    for row in laws.DOORS:
        if re.match(row[1], header):
            return row
    return None


# ---- rules: each takes (path, text, files) and yields violations ---------------------------------------------------
def check_include_style(path, text, files):
    if not path.endswith(CODE):
        return
    for line, header, quoted in includes(text):
        parts = header.split("/")
        if header.endswith(".pb.h"):
            continue  # generated into the build tree
        if quoted and (len(parts) < 2 or parts[0] not in TOP_FOLDERS or ".." in parts):
            yield Violation(path, line, "include_style",
                            f'"{header}" is not rooted at the repository; outside headers take <>')
        elif quoted and header not in files:
            yield Violation(path, line, "include_style", f'"{header}" does not exist')
        elif not quoted and parts[0] in TOP_FOLDERS and header in files:
            yield Violation(path, line, "include_style", f'<{header}> is ours and takes quotes: "{header}"')


def check_floors(path, text, files):
    if not path.endswith(CODE) or within(path, laws.FREE):
        return
    unit = unit_of(path)
    if unit is None:
        yield Violation(path, 1, "floors", "the folder stands on no floor of tests/lint/laws.py")
        return
    for line, header, quoted in includes(text):
        if not quoted or header.endswith(".pb.h"):
            continue
        target = "a free folder" if within(header, laws.FREE) else unit_of(header)
        if target is not None and target != unit and target not in laws.FLOORS[unit]:
            yield Violation(path, line, "floors", f'{unit} may not include "{header}" ({target})')


def check_doors(path, text, files):
    if not path.endswith(CODE) or within(path, laws.FREE):
        return
    for line, header, quoted in includes(text):
        generated = quoted and header.endswith(".pb.h")
        if quoted and not generated:
            continue
        row = door_of(header)
        if row is None:
            if not re.fullmatch(laws.EVERYONE, header):
                yield Violation(path, line, "doors", f"<{header}> has no door in tests/lint/laws.py")
            continue
        name, _, places, in_headers = row
        if not within(path, places):
            door = " or ".join(places) or "tests and benchmarks"
            yield Violation(path, line, "doors", f"<{header}>: {name} is seen by {door} only")
        elif path.endswith(HEADERS) and not in_headers:
            yield Violation(path, line, "doors", f"<{header}>: {name} is never seen by a header")


def check_calls(path, text, files):
    if not path.endswith(CODE) or within(path, laws.FREE):
        return
    code = without_literals(text)
    for rule, pattern, places, why in laws.CALLS:
        if within(path, places):
            continue
        for match in re.finditer(pattern, code):
            line = code.count("\n", 0, match.start()) + 1
            yield Violation(path, line, rule, f"`{match.group().strip()}`: {why}")


def _cmake_calls(text):
    """(line, command, arguments) of every command, comments and quotes removed."""
    code = re.sub(r"#[^\n]*", "", text)
    for match in re.finditer(r"\b([A-Za-z_]\w*)\s*\(([^()]*(?:\([^()]*\)[^()]*)*)\)", code):
        yield code.count("\n", 0, match.start()) + 1, match.group(1).lower(), match.group(2)


def check_cmake_doors(path, text, files):
    if PurePosixPath(path).name != "CMakeLists.txt" and not path.endswith(".cmake") or within(path, laws.FREE):
        return
    top = path.split("/")[0]
    for line, command, arguments in _cmake_calls(text):
        if command not in ("find_package", "pkg_check_modules", "find_library", "find_path", "plinth_library",
                           "target_link_libraries", "link_libraries", "target_include_directories"):
            continue
        exported = re.split(r"\b(?:DOORS|PRIVATE)\b", arguments)[0]
        for name, pattern, door in laws.CMAKE_DOORS:
            if not re.search(pattern, arguments):
                continue
            if top != door:
                yield Violation(path, line, "cmake_doors", f"{name} is named by {door}/CMakeLists.txt only")
            elif re.match(laws.GENERATED_LIBRARY, arguments.strip()):
                continue
            elif command in ("plinth_library", "target_link_libraries") and re.search(pattern, exported):
                yield Violation(path, line, "cmake_doors", f"{name} must be private to its folder (DOORS or PRIVATE)")


def check_cmake_floors(path, text, files):
    if PurePosixPath(path).name != "CMakeLists.txt" or within(path, laws.FREE):
        return
    for line, command, arguments in _cmake_calls(text):
        words = arguments.split()
        if command not in ("plinth_library", "target_link_libraries") or not words or words[0] not in laws.LIBRARIES:
            continue
        library = words[0]
        folder, below = laws.LIBRARIES[library]
        if command == "plinth_library" and path != f"{folder}/CMakeLists.txt":
            yield Violation(path, line, "cmake_floors", f"{library} belongs to {folder}/CMakeLists.txt")
        for word in words[1:]:
            ours = word.startswith("plinth_") and not re.fullmatch(laws.GENERATED_LIBRARY, word)
            if ours and word not in below and word not in laws.EVERYWHERE_IN_CMAKE:
                yield Violation(path, line, "cmake_floors", f"{library} may not depend on {word}")


def check_spdx(path, text, files):
    if path.endswith(laws.SPDX_SLASHES):
        lead = "// "
    elif path.endswith(laws.SPDX_HASH):
        lead = "# "
    else:
        return
    lines = text.split("\n")
    first = 1 if lead == "# " and lines[0].startswith("#!") else 0
    if len(lines) <= first or lines[first] != lead + laws.SPDX:
        yield Violation(path, first + 1, "spdx", f"the line must be `{lead}{laws.SPDX}`")


def check_machine_paths(path, text, files):
    for number, line in enumerate(text.split("\n"), 1):
        if re.search(laws.MACHINE_PATHS, line):
            yield Violation(path, number, "machine_path", "names a path of somebody's machine")
        if re.search(laws.REGISTRIES, line):
            yield Violation(path, number, "machine_path", "names a package registry's host")


CHECKS = [check_include_style, check_floors, check_doors, check_calls, check_cmake_doors, check_cmake_floors, check_spdx,
          check_machine_paths]


def check(files):
    """Every violation in {path: text}, by path and line."""
    found = [v for path, text in files.items() for rule in CHECKS for v in rule(path, text, files)]
    return sorted(found, key=lambda v: (v.path, v.line, v.rule))


def repository(root):
    """{path: text} of every text file that git tracks or would track."""
    listed = subprocess.run(["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            capture_output=True)
    if listed.returncode == 0:
        paths = [path for path in listed.stdout.decode().split("\0") if path]
    else:  # a source archive
        paths = []
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if not name.startswith((".", "build"))]
            paths += [os.path.relpath(os.path.join(folder, name), root) for name in names]
    files = {}
    for path in paths:
        full = os.path.join(root, path)
        if os.path.isfile(full) and not path.endswith(BINARY):
            with open(full, "rb") as file:
                files[path] = file.read().decode("utf-8", errors="replace")
    return files


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
    files = repository(parser.parse_args().root)
    violations = check(files)
    for violation in violations:
        print(violation)
    print(f"{len(files)} files, {len(violations)} violations")
    return 1 if violations or not files else 0


if __name__ == "__main__":
    sys.exit(main())
