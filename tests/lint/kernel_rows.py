#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each kernel of the CUDA module has a row in the table of gpu_benchmarks, or a reason why not.

    tests/lint/kernel_rows.py [--root DIR]     exit 0: sound; 1: what has no row, and reasons that nobody needs
"""
import argparse
import re
import sys
import unittest
from pathlib import Path

NO_ROW = {
    "count_matmul_algorithms": "a number of the host",
    "load_matmul_algorithms": "text of the host",
    "let_matmul_be_timed": "a switch of the host",
    "mark_time": "writes one number, twice a step",
    "set_step_number": "writes one number, once a step",
}

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


def faults(module, rows, no_row=None):
    """What is wrong, as sentences: `module` is the text of kernels/cuda, `rows` that of the row files."""
    no_row = NO_ROW if no_row is None else no_row
    registered = set(re.findall(r"^PLINTH_CUDA_KERNEL\((\w+)\)", _COMMENT.sub("", module), re.M))
    called = set(re.findall(r"\bkernels::(\w+)\(", _COMMENT.sub("", rows)))
    found = [f"{name}: no row of benchmarks/gpu calls it" for name in sorted(registered - called - set(no_row))]
    found += [f"{name}: has a reason in NO_ROW and a row" for name in sorted(called & set(no_row))]
    found += [f"{name}: has a reason in NO_ROW and is no kernel" for name in sorted(set(no_row) - registered)]
    return found if registered else ["kernels/cuda registers no kernel"]


class Faults(unittest.TestCase):
    MODULE = "PLINTH_CUDA_KERNEL(add);\nPLINTH_CUDA_KERNEL(add_row);\n"
    ROWS = "kernels::add(y, a, b, s);\nkernels::add_row(y, x, row, s);\n"

    def test_whole(self):
        self.assertEqual(faults(self.MODULE, self.ROWS, {}), [])

    def test_a_kernel_without_a_row(self):
        self.assertIn("add_row: no row", faults(self.MODULE, "kernels::add(y, a, b, s);", {})[0])
        self.assertIn("add: no row", faults(self.MODULE, "// kernels::add(y)\nkernels::add_row(y, x, row, s);", {})[0])

    def test_reasons(self):
        self.assertEqual(faults(self.MODULE, "kernels::add(y, a, b, s);", {"add_row": "why"}), [])
        self.assertIn("and a row", faults(self.MODULE, self.ROWS, {"add_row": "why"})[0])
        self.assertIn("no kernel", faults(self.MODULE, self.ROWS, {"other": "why"})[0])

    def test_nothing_found(self):
        self.assertEqual(len(faults("", self.ROWS, {})), 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[2])
    root = parser.parse_args().root

    def text(*patterns):
        return "\n".join(path.read_text() for pattern in patterns for path in sorted(root.glob(pattern)))

    found = faults(text("kernels/cuda/*.cu", "kernels/cuda/*.cpp"), text("benchmarks/gpu/*_rows.cpp"))
    print("\n".join(found) or "each kernel has a row or a reason")
    result = unittest.TextTestRunner(verbosity=0).run(unittest.defaultTestLoader.loadTestsFromTestCase(Faults))
    return 1 if found or not result.wasSuccessful() else 0


if __name__ == "__main__":
    sys.exit(main())
