#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns what only a CUDA compiler reads in a .cu or .cuh file into plain C++ for the emulated device.

    translate.py SOURCE RESULT

kernel<<<grid, block, shared, stream>>>(arguments)   becomes   emulation::launch({...}, [=](...) {...}, arguments)
__shared__ T name[n];                                 a static variable, filled with a pattern in each block
extern __shared__ T name[];                           a pointer to the block's dynamic shared memory
asm("...")                                            the function of tests/emulation/device_code.h that does the same
Line numbers stay, so that compilers and debuggers name the source's lines.
"""
import re
import sys
from pathlib import Path

INSTRUCTIONS = [
    (r'asm\s*\(\s*"ex2\.approx\.ftz\.f32 %0, %1;"\s*:\s*"=f"\((?P<to>\w+)\)\s*:\s*"f"\((?P<of>[^;]+)\)\s*\);',
     r"\g<to> = ::emulation::power_of_two(\g<of>);"),
    (r'asm volatile\s*\(\s*"bar\.sync %0, %1;"\s*::\s*"r"\((?P<a>[^"]+)\),\s*"r"\((?P<b>[^"]+)\)\s*:\s*"memory"\s*\);',
     r"::emulation::wait_for_threads(\g<a>, \g<b>);"),
    (r'asm volatile\s*\(\s*""\s*:[^;]*\);', ";"),  # hints for the compiler alone
]


def closing(text, at, opening, closer):
    """The index of the bracket that closes the one at `at`."""
    depth = 0
    for i in range(at, len(text)):
        if text[i] == opening:
            depth += 1
        elif text[i] == closer:
            depth -= 1
            if depth == 0:
                return i
    raise ValueError(f"no {closer} closes the {opening} at {at}")


def kernel_start(text, end):
    """Where the name, with its template arguments, that ends before `end` begins."""
    at = end
    while text[at - 1].isspace():
        at -= 1
    if text[at - 1] == ">":
        depth = 0
        while True:
            at -= 1
            if text[at] == ">":
                depth += 1
            elif text[at] == "<":
                depth -= 1
                if depth == 0:
                    break
    while re.match(r"[\w:]", text[at - 1]):
        at -= 1
    return at


def launches(text):
    while (at := text.find("<<<")) >= 0:
        start, end = kernel_start(text, at), text.index(">>>", at)
        kernel, shape = text[start:at], text[at + 3:end]
        opening = end + 3
        while text[opening].isspace():
            opening += 1
        close = closing(text, opening, "(", ")")
        arguments = text[opening + 1:close]
        if arguments.strip():
            arguments = ", " + arguments
        # A captured object is no constant inside of a lambda; its type is one.
        kernel = re.sub(r"\b(\w+)\(\)", r"decltype(\1){}()", kernel)
        text = (text[:start] + f"::emulation::launch(::emulation::Launch({shape}), "
                f"[=](const auto&... emulated) {{ {kernel}(emulated...); }}{arguments})" + text[close + 1:])
    return text


def shared_variables(text):
    text = re.sub(r"extern __shared__\s+(?:__align__\(\d+\)\s+)?(\w+)\s+(\w+)\[\];",
                  r"\1* const \2 = static_cast<\1*>(::emulation::dynamic_shared());", text)
    return re.sub(r"__shared__\s+(?P<align>alignas\(\d+\)\s+)?(?P<of>[^;]*?\b)(?P<name>\w+)(?P<extents>(?:\[[^;]*\])?);",
                  r"\g<align>static \g<of>\g<name>\g<extents>; "
                  r"::emulation::enter_shared(&\g<name>, sizeof(\g<name>));", text)


def translate(text):
    for pattern, replacement in INSTRUCTIONS:
        text = re.sub(pattern, replacement, text)
    text = re.sub(r"#pragma unroll\b.*", "", text)
    text = launches(shared_variables(text))
    for left in ("asm(", "asm volatile", "__shared__", "<<<"):
        if left in text:
            raise ValueError(f"'{left}' is left: teach tests/emulation/translate.py what it does")
    return text


def main():
    source, result = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        text = translate(source.read_text())
    except ValueError as error:
        sys.exit(f"translate.py: {source}: {error}")
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(f'#line 1 "{source}"\n' + text)


if __name__ == "__main__":
    main()
