// SPDX-License-Identifier: Apache-2.0
#include "core/io/print.h"

#include <cerrno>
#include <cstring>

#include "kernels/runtime/error.h"

namespace plinth::core::io {

namespace {
[[noreturn]] void fail() {
    const int reason = errno;
    FAIL(io, "cannot write the result to standard output: {}",
         reason != 0 ? std::strerror(reason) : "an earlier write failed");
}
}  // namespace

void print_result(std::string_view text) {
    errno = 0;
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) fail();
}

void flush_result() {
    errno = 0;
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) fail();
}

}  // namespace plinth::core::io
