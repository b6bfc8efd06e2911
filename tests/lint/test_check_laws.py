#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each rule of check_laws.py against a sample that breaks it and a twin that does not."""
import os
import subprocess
import sys
import tempfile
import unittest

import check_laws
import laws

SLASHES = f"// {laws.SPDX}\n"
HASH = f"# {laws.SPDX}\n"


def broken(path, body, others=()):
    """The set of (rule, line) that `body` breaks at `path`; line 1 is the SPDX line that is put in front."""
    lead = SLASHES if path.endswith(laws.SPDX_SLASHES) else HASH
    files = {other: SLASHES for other in others}
    files[path] = lead + body
    return {(v.rule, v.line) for v in check_laws.check(files) if v.path == path}


def include(header):
    return f'#include "{header}"\n'


# (file, header it includes): each pair breaks the floors.
FLOOR_MUTANTS = [
    ("kernels/runtime/stream.cpp", "kernels/view.h"),
    ("kernels/matmul.h", "core/tensor/tensor.h"),
    ("kernels/matmul.h", "kernels/cpu/gemm.h"),
    ("kernels/cuda/matmul.cu", "kernels/cpu/gemm.h"),
    ("core/io/json.cpp", "kernels/view.h"),
    ("core/io/json.cpp", "core/tensor/tensor.h"),
    ("core/tensor/tensor.cpp", "core/autograd/tape.h"),
    ("core/tensor/tensor.cpp", "core/io/file.h"),
    ("core/autograd/tape.cpp", "core/ops/matmul.h"),
    ("core/ops/matmul.cpp", "core/nn/module.h"),
    ("core/nn/linear.cpp", "core/models/transformer.h"),
    ("core/nn/linear.cpp", "core/optim/adamw.h"),
    ("core/models/transformer.cpp", "core/inference/cache.h"),
    ("core/models/transformer.cpp", "core/ranks.h"),
    ("core/optim/adamw.cpp", "core/nn/module.h"),
    ("core/data/loader.cpp", "core/ops/matmul.h"),
    ("core/data/loader.cpp", "core/autograd/tape.h"),
    ("core/inference/cache.cpp", "core/optim/adamw.h"),
    ("core/data/loader.cpp", "parallel/comm/communicator.h"),
    ("core/data/loader.cpp", "launch/session.h"),
    ("parallel/mesh.cpp", "parallel/comm/communicator.h"),
    ("parallel/comm/mpi.cpp", "parallel/collective_ops/enter.h"),
    ("parallel/comm/mpi.cpp", "parallel/data_parallel/bucket.h"),
    ("parallel/collective_ops/enter.cpp", "parallel/zero/owner.h"),
    ("parallel/zero/owner.cpp", "parallel/data_parallel/bucket.h"),
    ("parallel/data_parallel/bucket.cpp", "parallel/tensor_parallel/plan.h"),
    ("parallel/pipeline_parallel/runner.cpp", "parallel/data_parallel/bucket.h"),
    ("parallel/zero/owner.cpp", "checkpoints/writer.h"),
    ("checkpoints/writer.cpp", "parallel/mesh.h"),
    ("checkpoints/writer.cpp", "launch/session.h"),
    ("launch/config/load.cpp", "launch/session.h"),
    ("core/io/json.cpp", "tests/support/expect_error.h"),
    ("launch/session.cpp", "benchmarks/support/timer.h"),
]
FLOOR_SOUND = [
    ("kernels/cpu/gemm.cpp", "kernels/runtime/error.h"),
    ("kernels/runtime/philox.h", "kernels/simd.h"),
    ("core/io/json.cpp", "kernels/runtime/error.h"),
    ("core/data/loader.cpp", "core/io/file.h"),
    ("core/data/loader.cpp", "core/ranks.h"),
    ("core/optim/adamw.cpp", "core/autograd/parameter.h"),
    ("core/inference/cache.cpp", "core/models/transformer.h"),
    ("parallel/data_parallel/bucket.cpp", "parallel/comm/communicator.h"),
    ("checkpoints/writer.cpp", "core/ranks.h"),
    ("launch/session.cpp", "checkpoints/writer.h"),
    ("launch/session.cpp", "parallel/mesh.h"),
    ("tests/unit/io/json.cpp", "launch/session.h"),
    ("benchmarks/ops/matmul.cpp", "tests/support/cases/matmul.h"),
]

# (file, outside header): each pair goes through a wrong door.
DOOR_MUTANTS = [
    ("launch/session.cpp", "mpi.h"),
    ("parallel/data_parallel/bucket.cpp", "mpi.h"),
    ("kernels/cuda/comm.cu", "nccl.h"),
    ("core/tensor/tensor.cpp", "cuda_runtime.h"),
    ("kernels/cpu/gemm.cpp", "cublasLt.h"),
    ("parallel/zero/owner.cpp", "nvtx3/nvToolsExt.h"),
    ("core/ops/matmul.cpp", "oneapi/dnnl/dnnl.hpp"),
    ("kernels/cpu/gemm.h", "dnnl.h"),
    ("core/ops/matmul.cpp", "omp.h"),
    ("core/io/json.cpp", "google/protobuf/message.h"),
    ("checkpoints/manifest.h", "google/protobuf/message.h"),
    ("checkpoints/manifest.h", "checkpoint.pb.h"),
    ("launch/session.cpp", "yaml-cpp/yaml.h"),
    ("launch/config/load.h", "yaml-cpp/yaml.h"),
    ("launch/pretrain.cpp", "CLI/CLI.hpp"),
    ("core/data/manifest.cpp", "nlohmann/json.hpp"),
    ("core/io/json.h", "nlohmann/json.hpp"),
    ("core/data/jsonl.cpp", "simdjson.h"),
    ("checkpoints/writer.cpp", "zstd.h"),
    ("core/data/reader.cpp", "zlib.h"),
    ("checkpoints/writer.cpp", "xxhash.h"),
    ("launch/config/text.cpp", "regex"),
    ("core/io/lines.cpp", "pcre2.h"),
    ("core/io/lines.cpp", "utf8proc.h"),
    ("core/io/json.cpp", "gtest/gtest.h"),
    ("core/io/json.cpp", "benchmark/benchmark.h"),
    ("launch/session.cpp", "fstream"),
    ("launch/doctor.cpp", "sys/socket.h"),
    ("parallel/comm/heartbeat.h", "netinet/in.h"),
    ("core/data/loader.cpp", "fcntl.h"),
    ("checkpoints/writer.cpp", "sys/stat.h"),
    ("checkpoints/writer.cpp", "sys/mman.h"),
    ("core/tensor/tensor.cpp", "boost/any.hpp"),
    ("core/tensor/tensor.cpp", "spdlog/spdlog.h"),
]
DOOR_SOUND = [
    ("parallel/comm/mpi.cpp", "mpi.h"),
    ("parallel/comm/datagrams.cpp", "poll.h"),
    ("parallel/comm/nccl.cpp", "nccl.h"),
    ("kernels/cuda/matmul.cu", "cublasLt.h"),
    ("kernels/cpu/gemm.cpp", "oneapi/dnnl/dnnl.hpp"),
    ("checkpoints/manifest.cpp", "checkpoint.pb.h"),
    ("launch/config/yaml.cpp", "yaml-cpp/eventhandler.h"),
    ("launch/main.cpp", "CLI/CLI.hpp"),
    ("core/io/json.cpp", "nlohmann/json.hpp"),
    ("core/io/posix.cpp", "sys/stat.h"),
    ("core/io/text_file.cpp", "zstd.h"),
    ("core/data/pretokenizer.cpp", "pcre2.h"),
    ("core/tensor/tensor.h", "string_view"),
    ("core/tensor/tensor.h", "fmt/format.h"),
    ("launch/metrics/system.cpp", "sys/resource.h"),
    ("tests/unit/io/json.cpp", "gtest/gtest.h"),
]

# (rule, file, line of code that breaks it)
CALL_MUTANTS = [
    ("files", "core/data/loader.cpp", "int fd = ::open(path, 0);"),
    ("files", "core/data/loader.cpp", "int fd = open(path, O_RDONLY);"),
    ("files", "core/data/loader.cpp", "pread(fd, p, n, 0);"),
    ("files", "checkpoints/writer.cpp", "REQUIRE(fsync(fd) == 0);"),
    ("files", "checkpoints/writer.cpp", "::rename(a, b);"),
    ("files", "checkpoints/writer.cpp", "std::rename(a, b);"),
    ("files", "checkpoints/retention.cpp", "std::filesystem::remove_all(folder);"),
    ("files", "checkpoints/retention.cpp", "namespace fs = std::filesystem;"),
    ("files", "launch/metrics/jsonl.cpp", 'std::FILE* f = std::fopen(p, "w");'),
    ("printing", "core/models/transformer.cpp", 'std::cout << "x";'),
    ("printing", "checkpoints/reader.cpp", 'fmt::print("x");'),
    ("printing", "core/data/loader.cpp", "std::fwrite(p, 1, n, f);"),
    ("environment", "core/io/posix.cpp", 'auto* t = std::getenv("TMPDIR");'),
    ("environment", "kernels/runtime/thread_pool.cpp", 'getenv("OMP_NUM_THREADS");'),
    ("exit", "launch/pretrain.cpp", "std::exit(1);"),
    ("exit", "kernels/runtime/error.cpp", "_exit(1);"),
    ("exit", "parallel/comm/mpi.cpp", "std::_Exit(1);"),
    ("thread_local", "kernels/cpu/gemm.cpp", "thread_local int scratch = 0;"),
]
CALL_SOUND = [
    ("core/io/posix.cpp", "int fd = ::open(path, O_RDONLY);"),
    ("core/data/loader.cpp", "auto n = file->read(buffer); reader.open(path); Shard::open(x); checkpoints::read(y);"),
    ("core/data/loader.cpp", "// pread(fd) is what core/io calls"),
    ("core/data/loader.cpp", 'FAIL(kind, "::open(path) failed: std::exit(1)");'),
    ("core/data/loader.cpp", "/* getenv(\n exit( */ int exit_code = 1'000'000; char c = '\"'; char d = '\"';"),
    ("core/data/loader.cpp", 'auto text = R"x(getenv("A") exit(1))x";'),
    ("launch/config/load.cpp", "std::filesystem::path(path).lexically_normal();"),
    ("launch/pretrain.cpp", 'std::fputs(line, stdout); auto* home = std::getenv("HOME");'),
    ("launch/main.cpp", "std::exit(run(argc, argv));"),
    ("parallel/comm/mpi.cpp", "communicator.abort(); group->exit(1); on_exit();"),
    ("tests/unit/io/posix.cpp", "::open(path, O_RDONLY); std::exit(1);"),
]

# (rule, file, body)
CMAKE_MUTANTS = [
    ("cmake_doors", "launch/CMakeLists.txt", "find_package(MPI REQUIRED)\n"),
    ("cmake_doors", "core/CMakeLists.txt", "plinth_library(plinth_io FOLDERS io DOORS protobuf::libprotobuf)\n"),
    ("cmake_doors", "core/CMakeLists.txt", "pkg_check_modules(NCCL REQUIRED nccl)\n"),
    ("cmake_doors", "core/CMakeLists.txt", "target_link_libraries(plinth_io PUBLIC ZLIB::ZLIB)\n"),
    ("cmake_doors", "core/CMakeLists.txt", "plinth_library(plinth_io FOLDERS io DEPENDS ZLIB::ZLIB)\n"),
    ("cmake_doors", "parallel/CMakeLists.txt", "target_link_libraries(plinth_parallel MPI::MPI_C)\n"),
    ("cmake_doors", "cmake/plinth_targets.cmake", "find_package(yaml-cpp REQUIRED)\n"),
    ("cmake_doors", "checkpoints/CMakeLists.txt",
     "plinth_library(plinth_checkpoints FOLDERS . DEPENDS plinth_checkpoint_proto)\n"),
    ("cmake_floors", "kernels/CMakeLists.txt", "plinth_library(plinth_kernels FOLDERS . DEPENDS plinth_io)\n"),
    ("cmake_floors", "checkpoints/CMakeLists.txt",
     "plinth_library(plinth_checkpoints FOLDERS . DEPENDS plinth_parallel)\n"),
    ("cmake_floors", "core/CMakeLists.txt", "target_link_libraries(plinth_io PRIVATE plinth_tensor)\n"),
    ("cmake_floors", "launch/CMakeLists.txt", "plinth_library(plinth_io FOLDERS io DEPENDS plinth_kernels)\n"),
]
CMAKE_SOUND = [
    ("core/CMakeLists.txt", "find_package(ZLIB REQUIRED)\nplinth_library(plinth_io FOLDERS io DEPENDS plinth_kernels\n"
                            "    DOORS ZLIB::ZLIB)\n"),
    ("parallel/CMakeLists.txt", "# needs no find_package(CUDAToolkit)\nfind_package(MPI REQUIRED COMPONENTS C)\n"),
    ("checkpoints/CMakeLists.txt", "target_link_libraries(plinth_checkpoint_proto PUBLIC protobuf::libprotobuf)\n"),
    ("tests/CMakeLists.txt", "find_package(MPI)\nplinth_test(unit_io FOLDERS unit/io DEPENDS plinth_io LABELS cpu)\n"),
]

# (file, whole text): each breaks the SPDX rule.
SPDX_MUTANTS = [
    ("core/io/json.cpp", "#pragma once\n"),
    ("core/io/json.h", "\n" + SLASHES),
    ("checkpoints/checkpoint.proto", 'syntax = "proto3";\n'),
    ("launch/test.sh", "#!/usr/bin/env bash\nset -e\n"),
    ("tests/lint/x.py", "import os\n"),
    ("core/CMakeLists.txt", "project(x)\n"),
    ("core/io/json.h", "// SPDX-License-Identifier: MIT\n"),
]
SPDX_SOUND = [
    ("core/io/json.h", SLASHES),
    ("launch/test.sh", "#!/usr/bin/env bash\n" + HASH),
    ("core/CMakeLists.txt", HASH),
    ("docs/data.md", "# Data\n"),
]

INCLUDE_STYLE_MUTANTS = [
    ('#include "json.h"\n', ()),
    ('#include "../io/json.h"\n', ()),
    ('#include "core/../io/json.h"\n', ()),
    ('#include "io/json.h"\n', ()),
    ('#include "fmt/format.h"\n', ()),
    ('#include "core/io/gone.h"\n', ()),
    ("#include <core/io/file.h>\n", ("core/io/file.h",)),
]

MACHINE_PATH_MUTANTS = ["cd /" + "work/build", 'path: "/' + 'root/x"', "(/" + "home/me/x)", "see py" + "pi.org"]
MACHINE_PATH_SOUND = ["build/work/x", "https://host.example/root/x", "${ROOT}/root/x", "a /worker/x", "/tmp/x"]


class Rules(unittest.TestCase):
    def test_floors(self):
        for path, header in FLOOR_MUTANTS:
            with self.subTest(path=path, header=header):
                self.assertIn(("floors", 2), broken(path, include(header), [header]))
        for path, header in FLOOR_SOUND:
            with self.subTest(path=path, header=header):
                self.assertEqual(set(), broken(path, include(header), [header]))
        self.assertIn(("floors", 1), broken("helpers/x.cpp", ""))

    def test_no_row_of_the_floors_is_a_circle(self):
        for folder, below in laws.FLOORS.items():
            for other in below:
                self.assertIn(other, laws.FLOORS)
                self.assertNotIn(folder, laws.FLOORS[other], f"{folder} and {other} know each other")

    def test_doors(self):
        for path, header in DOOR_MUTANTS:
            with self.subTest(path=path, header=header):
                self.assertIn(("doors", 2), broken(path, f"#include <{header}>\n"))
        for path, header in DOOR_SOUND:
            with self.subTest(path=path, header=header):
                self.assertEqual(set(), broken(path, f"#include <{header}>\n"))

    def test_generated_headers_are_seen_by_checkpoints_only(self):
        self.assertIn(("doors", 2), broken("launch/inspect.cpp", include("checkpoint.pb.h")))
        self.assertIn(("doors", 2), broken("checkpoints/manifest.h", include("checkpoint.pb.h")))
        self.assertEqual(set(), broken("checkpoints/manifest.cpp", include("checkpoint.pb.h")))

    def test_every_door_has_a_mutant(self):
        tried = {check_laws.door_of(header)[0] for _, header in DOOR_MUTANTS if check_laws.door_of(header)}
        self.assertEqual({row[0] for row in laws.DOORS}, tried)

    def test_calls(self):
        for rule, path, code in CALL_MUTANTS:
            with self.subTest(path=path, code=code):
                self.assertIn((rule, 3), broken(path, "// a comment line\n" + code + "\n"))
        for path, code in CALL_SOUND:
            with self.subTest(path=path, code=code):
                self.assertEqual(set(), broken(path, code + "\n"))
        self.assertEqual({row[0] for row in laws.CALLS}, {rule for rule, _, _ in CALL_MUTANTS})

    def test_a_commented_include_is_none(self):
        self.assertEqual(set(), broken("core/io/json.cpp", '// #include "core/tensor/tensor.h"\n/*\n#include <mpi.h>\n*/\n'))

    def test_cmake(self):
        for rule, path, body in CMAKE_MUTANTS:
            with self.subTest(path=path, body=body):
                self.assertEqual({(rule, 2)}, broken(path, body))
        for path, body in CMAKE_SOUND:
            with self.subTest(path=path, body=body):
                self.assertEqual(set(), broken(path, body))

    def test_spdx(self):
        for path, text in SPDX_MUTANTS:
            with self.subTest(path=path, text=text):
                self.assertEqual({"spdx"}, {v.rule for v in check_laws.check({path: text})})
        for path, text in SPDX_SOUND:
            with self.subTest(path=path, text=text):
                self.assertEqual([], check_laws.check({path: text}))

    def test_include_style(self):
        for code, others in INCLUDE_STYLE_MUTANTS:
            with self.subTest(code=code):
                self.assertIn(("include_style", 2), broken("core/io/x.cpp", code, others))
        self.assertEqual(set(), broken("core/io/x.cpp", include("core/io/file.h"), ["core/io/file.h"]))

    def test_machine_paths(self):
        for line in MACHINE_PATH_MUTANTS:
            with self.subTest(line=line):
                self.assertEqual({("machine_path", 2)}, broken("docs/x.md", line + "\n"))
        for line in MACHINE_PATH_SOUND:
            with self.subTest(line=line):
                self.assertEqual(set(), broken("docs/x.md", line + "\n"))


class Program(unittest.TestCase):
    def run_in(self, files):
        with tempfile.TemporaryDirectory() as root:
            for path, text in files.items():
                os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
                with open(os.path.join(root, path), "w") as file:
                    file.write(text)
            script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "check_laws.py")
            return subprocess.run([sys.executable, script, "--root", root], capture_output=True, text=True)

    def test_names_file_line_and_rule(self):
        result = self.run_in({"core/io/x.cpp": SLASHES + "#include <mpi.h>\n"})
        self.assertEqual(1, result.returncode)
        self.assertIn("core/io/x.cpp:2: [doors] <mpi.h>: MPI is seen by parallel/comm only", result.stdout)

    def test_a_sound_tree_passes_and_an_empty_one_fails(self):
        self.assertEqual(0, self.run_in({"core/io/x.cpp": SLASHES}).returncode)
        self.assertEqual(1, self.run_in({}).returncode)


if __name__ == "__main__":
    unittest.main()
