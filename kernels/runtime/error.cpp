// SPDX-License-Identifier: Apache-2.0
#include "kernels/runtime/error.h"

#include <cstring>

namespace plinth {

int exit_code(ErrorKind kind) {
    switch (kind) {
        case ErrorKind::internal:
            return 1;
        case ErrorKind::config:
            return 2;
        case ErrorKind::data:
            return 3;
        case ErrorKind::checkpoint:
            return 4;
        case ErrorKind::io:
            return 5;
        case ErrorKind::ranks:
            return 6;
    }
    return 1;
}

namespace {
std::string location(const char* file, int line) {
    const char* name = std::strrchr(file, '/');
    return fmt::format("{}:{}", name ? name + 1 : file, line);
}
}  // namespace

Error::Error(ErrorKind kind, const std::string& message, const char* file, int line)
    : std::runtime_error(message), kind_(kind), where_(location(file, line)) {}

void throw_error(ErrorKind kind, const char* file, int line, const std::string& message) {
    throw Error(kind, message, file, line);
}

void throw_check(const char* condition, const char* file, int line, const std::string& message) {
    throw Error(
        ErrorKind::internal,
        fmt::format("internal error at {}: {} [{}]", location(file, line), message, condition),
        file, line);
}

}  // namespace plinth
