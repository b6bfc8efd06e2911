// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>
#include <string>

namespace plinth::core::io {

/// Writes text at once, as far as that is possible: a full disk behind the stream must not end a
/// run, and an error's message must not become another error.
inline void print_best_effort(std::FILE* out, const std::string& text) noexcept {
    std::fwrite(text.data(), 1, text.size(), out);
    std::fflush(out);
    std::clearerr(out);
}

}  // namespace plinth::core::io
