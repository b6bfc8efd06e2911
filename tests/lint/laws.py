# SPDX-License-Identifier: Apache-2.0
"""The two laws of the house as tables: which folder may include which, and which outside name is allowed where.

A change of the architecture is a change of one row here. `check_laws.py` reads the rows; it knows no folder itself.
"""

# ---- Law 1: floors --------------------------------------------------------------------------------------------------
# folder -> the folders below it that it may include (itself always). A file belongs to the longest prefix listed, so a
# new folder without a row of its own obeys its parent's. "core" and "parallel" alone mean the files directly inside.
# A single file may have a row too.
KERNELS = ["kernels", "kernels/runtime", "kernels/simd.h"]
TENSOR = [*KERNELS, "core/tensor"]
AUTOGRAD = [*TENSOR, "core/autograd"]
OPS = [*AUTOGRAD, "core/ops"]
NN = [*OPS, "core/nn"]
MODELS = [*NN, "core/models"]
CORE = ["core", *MODELS, "core/io", "core/optim", "core/data", "core/inference"]
COLLECTIVES = [*KERNELS, *CORE, "parallel", "parallel/comm", "parallel/collective_ops"]

FLOORS = {
    "kernels/simd.h": [],  # pragmas only
    "kernels/runtime": ["kernels/simd.h"],
    "kernels": ["kernels/runtime", "kernels/simd.h"],
    "kernels/cpu": KERNELS,
    "kernels/cuda": KERNELS,
    "core": KERNELS,  # ranks.h
    "core/io": ["kernels/runtime"],
    "core/tensor": KERNELS,
    "core/autograd": TENSOR,
    "core/ops": AUTOGRAD,
    "core/nn": OPS,
    "core/models": NN,
    "core/optim": [*AUTOGRAD, "core"],
    "core/data": [*TENSOR, "core", "core/io"],
    "core/inference": MODELS,
    "parallel": [*KERNELS, *CORE],  # the mesh: pure arithmetic
    "parallel/comm": [*KERNELS, *CORE, "parallel"],
    "parallel/collective_ops": [*KERNELS, *CORE, "parallel", "parallel/comm"],
    "parallel/tensor_parallel": COLLECTIVES,
    "parallel/data_parallel": COLLECTIVES,
    "parallel/zero": COLLECTIVES,
    "parallel/pipeline_parallel": COLLECTIVES,
    "parallel/context_parallel": COLLECTIVES,
    "parallel/expert_parallel": COLLECTIVES,
    "checkpoints": [*KERNELS, *CORE],
}
# launch and its own folders sit on top of everything; config and metrics do not know the stages that use them.
BELOW_LAUNCH = [*KERNELS, *CORE, "checkpoints", *(folder for folder in FLOORS if folder.startswith("parallel"))]
FLOORS["launch/config"] = BELOW_LAUNCH
FLOORS["launch/metrics"] = [*BELOW_LAUNCH, "launch/config"]
FLOORS["launch"] = [*BELOW_LAUNCH, "launch/config", "launch/metrics"]

# Folders that may include anything.
FREE = ("tests", "benchmarks")

# CMake library -> (the folders it is built from, the libraries it may depend on).
LIBRARIES = {
    "plinth_kernels": ("kernels", []),
    "plinth_io": ("core", ["plinth_kernels"]),
    "plinth_tensor": ("core", ["plinth_kernels"]),
    "plinth_data": ("core", ["plinth_kernels", "plinth_io", "plinth_tensor"]),
    "plinth_learning": ("core", ["plinth_kernels", "plinth_io", "plinth_tensor", "plinth_data"]),
}
_CORE = [*LIBRARIES]
LIBRARIES["plinth_parallel"] = ("parallel", _CORE)
LIBRARIES["plinth_checkpoints"] = ("checkpoints", _CORE)
LIBRARIES["plinth_launch"] = ("launch", [*_CORE, "plinth_parallel", "plinth_checkpoints"])
LIBRARIES["plinth_cuda"] = ("kernels", ["plinth_kernels"])
LIBRARIES["plinth_nccl"] = ("parallel", [])
EVERYWHERE_IN_CMAKE = ("plinth_options",)
# Libraries of generated code carry their outside library with them, and count as outside themselves.
GENERATED_LIBRARY = r"plinth_\w+_proto"

# ---- Law 2: one door per dependency ---------------------------------------------------------------------------------
# (what, pattern of the header between the brackets, places, whether a header of the house may name it)
# A place is a folder (with all below it) or one file.
DOORS = [
    ("MPI", r"mpi(-ext)?\.h", ("parallel/comm",), True),
    ("NCCL", r"nccl.*\.h", ("parallel/comm",), True),
    ("sockets", r"(sys/socket|netinet/\w+|arpa/inet|net/if|ifaddrs|netdb|poll)\.h", ("parallel/comm",), False),
    (
        "CUDA",
        r"(cuda|cublas|cudnn|cufft|curand|nvrtc|cupti|nvml|cooperative_groups|mma\.h|nvtx3/|nvToolsExt|cub/|thrust/)",
        ("kernels/cuda", "kernels/runtime"),
        True,
    ),
    ("oneDNN", r"(oneapi/dnnl/|dnnl)", ("kernels/cpu", "kernels/runtime"), False),
    ("OpenMP", r"omp\.h", ("kernels/cpu", "kernels/runtime"), False),
    ("Protobuf", r"(google/protobuf/|.*\.pb\.h)", ("checkpoints",), False),
    ("yaml-cpp", r"yaml-cpp/", ("launch/config", "launch/main.cpp"), False),
    ("CLI11", r"CLI/", ("launch/config", "launch/main.cpp"), False),
    ("JSON", r"(nlohmann/|simdjson)", ("core/io",), False),
    ("compression", r"(zstd.*\.h|zlib\.h|zconf\.h|lz4.*\.h|bzlib\.h|lzma\.h)", ("core/io",), False),
    ("hashes", r"xxh(ash|3)\.h", ("core/io",), False),
    ("regex", r"(pcre2.*\.h|regex|re2/.*|oniguruma\.h)", ("core/data",), False),
    ("Unicode", r"(utf8proc\.h|unicode/.*)", ("core/data",), False),
    ("GoogleTest", r"(gtest|gmock)/", (), False),
    ("Google Benchmark", r"benchmark/", (), False),
    ("files", r"(fstream|fcntl\.h|dirent\.h|aio\.h|ftw\.h|glob\.h|sys/(stat|statvfs|vfs|file|sendfile|uio)\.h)",
     ("core/io",), False),
    ("memory maps", r"sys/mman\.h", ("kernels/runtime", "core/io"), False),
]
# Everyone's: fmt, the C++ library (a name without a dot), and C and POSIX headers that open no file and no door.
EVERYONE = r"(fmt/\w+\.h|[a-z_0-9]+|(errno|fnmatch|signal|stdlib|string|time|unistd|[a-z]mmintrin|immintrin|cpuid|x86intrin|pthread" \
           r"|sched|dlfcn|execinfo|cxxabi|sys/(types|time|resource|wait|syscall|utsname|ioctl|sysinfo))\.h)"

# CMake: the name of a package or target -> the only CMakeLists.txt that may name it (tests and benchmarks are free).
CMAKE_DOORS = [
    ("MPI", r"\bMPI(::\w+)?\b", "parallel"),
    ("NCCL", r"(?i)\bnccl\b", "parallel"),
    ("CUDA", r"(?i)\b(CUDAToolkit|CUDA::\w+|cudnn|cublas\w*)\b", "kernels"),
    ("oneDNN", r"(?i)\b(dnnl|DNNL::\w+)\b", "kernels"),
    ("OpenMP", r"\bOpenMP(::\w+)?\b", "kernels"),
    ("Protobuf", r"(?i)\b(protobuf(::\w+)?|plinth_\w+_proto)\b", "checkpoints"),
    ("yaml-cpp", r"\byaml-cpp\b", "launch"),
    ("CLI11", r"\bCLI11(::\w+)?\b", "launch"),
    ("JSON", r"(?i)\b(nlohmann_json(::\w+)?|simdjson(::\w+)?)\b", "core"),
    ("compression", r"\b(ZLIB(::\w+)?|(PkgConfig::)?ZSTD|libzstd|lz4)\b", "core"),
    ("hashes", r"(?i)\b((PkgConfig::)?XXHASH|libxxhash)\b", "core"),
    ("regex", r"\b((PkgConfig::)?PCRE2|libpcre2-8)\b", "core"),
    ("Unicode", r"(?i)\b((PkgConfig::)?UTF8PROC|libutf8proc|ICU(::\w+)?)\b", "core"),
]

# ---- What code may call ---------------------------------------------------------------------------------------------
# (rule, pattern, places where it is allowed, why). Comments and string literals are blanked before matching.
_FILE_CALLS = (
    "openat|openat2|pread|pwrite|preadv|pwritev|fsync|fdatasync|sync_file_range|syncfs|renameat2?|unlinkat|linkat|"
    "ftruncate|fallocate|posix_fallocate|posix_fadvise|mkstemp|mkdtemp|fopen|fdopen|freopen|fread|tmpfile|opendir|readdir|"
    "copy_file_range|sendfile|statvfs|fstatvfs"
)
CALLS = [
    ("files", rf"(?<![\w.>])(std::|::)?({_FILE_CALLS})\s*\(", ("core/io",), "files go through core/io"),
    ("files", r"(?<![\w>])::(open|creat|read|write|rename|unlink|link|symlink|mkdir|rmdir|remove|stat|lstat|fstat|"
              r"truncate|access|chmod|flock|fcntl|mmap)\s*\(", ("core/io",), "files go through core/io"),
    ("files", r"\bstd::rename\s*\(|\bO_(RDONLY|WRONLY|RDWR|CREAT|DIRECTORY|DIRECT)\b", ("core/io",),
     "files go through core/io"),
    # std::filesystem::path is arithmetic on names and free; everything beside it touches the disk.
    ("files", r"\bfilesystem::(?!path\b)\w+|\bnamespace\s+\w+\s*=\s*(std::)?filesystem\b|"
              r"\busing\s+namespace\s+std::filesystem\b", ("core/io",), "files go through core/io"),
    ("printing", r"\bstd::(cout|cerr|clog)\b|(?<![\w.>])(std::|::)?v?f?printf\s*\(|(?<![\w.>])(std::|::)?(puts|fputs|fputc|"
                 r"fwrite|putchar|perror)\s*\(|\bfmt::print(ln)?\s*\(", ("launch", "parallel/comm", "core/io"),
     "library code throws or returns; launch prints"),
    ("environment", r"(?<![\w.>])(std::|::)?(secure_)?(getenv|setenv|putenv|unsetenv)\s*\(|\benviron\b",
     ("launch", "parallel/comm"), "environment variables are read only in launch/ and parallel/comm"),
    ("exit", r"(?<![\w.>])(std::|::)?(_exit|exit|_Exit|quick_exit)\s*\(", ("launch/main.cpp", "parallel/comm/heartbeat.cpp"),
     "library code throws; only main.cpp ends the process, and the heartbeat that of a job that hangs"),
    ("thread_local", r"\bthread_local\b", ("core/autograd/scope.h", "core/autograd/scope.cpp"),
     "the Scope is the only thread-local in the house"),
]

# ---- Text -----------------------------------------------------------------------------------------------------------
SPDX = "SPDX-License-Identifier: Apache-2.0"
SPDX_SLASHES = (".h", ".cpp", ".cu", ".cuh", ".proto")
SPDX_HASH = (".py", ".sh", ".cmake", "CMakeLists.txt", ".sbatch")
# Composed, so that this file does not break its own rule.
MACHINE_PATHS = r"(?<![\w.}/~-])/(" + "|".join(["work", "root", "home"]) + r")/\w"
REGISTRIES = r"\b(" + "|".join(name + r"\." + end for name, end in [
    ("pypi", "org"), ("pythonhosted", "org"), ("deb", r"debian\.org"), ("proxy\\.golang", "org")]) + r")\b"
