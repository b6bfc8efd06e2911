// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "kernels/runtime/error.h"

namespace plinth::test {

/// Runs `body` and expects an Error of that kind whose message holds every one of `parts`.
template <typename Body, typename... Parts>
void expect_error(ErrorKind kind, Body&& body, const Parts&... parts) {
    try {
        body();
        ADD_FAILURE() << "no error was thrown";
    } catch (const Error& error) {
        EXPECT_EQ(static_cast<int>(error.kind()), static_cast<int>(kind)) << error.what();
        const std::string message = error.what();
        for (const std::string& part : {std::string(parts)...})
            EXPECT_NE(message.find(part), std::string::npos)
                << "'" << part << "' is missing in: " << message;
        EXPECT_EQ(message.find('\n'), std::string::npos) << "more than one line: " << message;
    }
}

}  // namespace plinth::test
