// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <stdexcept>
#include <string>

namespace plinth {

/// Whose fault an error is. It decides the process's exit code (docs/operations.md).
enum class ErrorKind {
    internal,    ///< a broken invariant: a bug in Plinth
    config,      ///< the user's configuration or command line
    data,        ///< a corpus, token shard or tokenizer file
    checkpoint,  ///< a checkpoint that is missing, foreign or damaged
    io,          ///< the operating system refused: disk full, permission, I/O error
    ranks,       ///< another rank failed, or a collective ran out of time
};

/// The documented exit code: internal 1, config 2, data 3, checkpoint 4, io 5, ranks 6.
int exit_code(ErrorKind kind);

/// Every failure in Plinth. `what()` is one complete line for the user; `where()` is file:line of
/// the throw.
class Error : public std::runtime_error {
  public:
    Error(ErrorKind kind, const std::string& message, const char* file, int line);
    ErrorKind kind() const { return kind_; }
    const std::string& where() const { return where_; }

  private:
    ErrorKind kind_;
    std::string where_;
};

[[noreturn]] void throw_error(ErrorKind kind, const char* file, int line,
                              const std::string& message);
[[noreturn]] void throw_check(const char* condition, const char* file, int line,
                              const std::string& message);

}  // namespace plinth

/// Throws an internal error that names the condition and the place. CHECK(n > 0, "n is {}", n);
#define CHECK(condition, ...)                                                                  \
    do {                                                                                       \
        if (!(condition)) [[unlikely]]                                                         \
            ::plinth::throw_check(#condition, __FILE__, __LINE__, ::fmt::format(__VA_ARGS__)); \
    } while (false)

/// Throws an error of the given kind. FAIL(data, "{}: line {}: not UTF-8", path, line);
#define FAIL(kind, ...) \
    ::plinth::throw_error(::plinth::ErrorKind::kind, __FILE__, __LINE__, ::fmt::format(__VA_ARGS__))

/// A mistake that is not ours: REQUIRE(config, batch > 0, "train.batch: must be positive, got {}",
/// batch);
#define REQUIRE(kind, condition, ...)  \
    do {                               \
        if (!(condition)) [[unlikely]] \
            FAIL(kind, __VA_ARGS__);   \
    } while (false)
