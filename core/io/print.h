// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

namespace plinth::core::io {

/// Writes text at once, as far as that is possible: a full disk behind the stream must not end a
/// run, and an error's message must not become another error.
inline void print_best_effort(std::FILE* out, const std::string& text) noexcept {
    std::fwrite(text.data(), 1, text.size(), out);
    std::fflush(out);
    std::clearerr(out);
}

/// What a stage was asked for, to standard output, buffered. A stage whose result is cut must not
/// end as if it were whole: an error of kind io with the system's reason.
void print_result(std::string_view text);
/// The rest of it; the same error, also for what was lost before.
void flush_result();

}  // namespace plinth::core::io
