// SPDX-License-Identifier: Apache-2.0
#include "kernels/runtime/trace.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "tests/support/trace_recorder.h"

namespace plinth::test {
namespace {

TEST(TraceRange, WithoutASinkNothingHappens) {
    EXPECT_EQ(trace_sink(), nullptr);
    const TraceRange range("nobody listens");
}

TEST(TraceRange, Nests) {
    TraceRecorder recorder;
    {
        const TraceRange step("step");
        { const TraceRange forward("forward"); }
        const TraceRange backward(std::string("backward").c_str());
    }
    const TraceRange update("update");
    EXPECT_EQ(recorder.paths(),
              (std::vector<std::string>{"step", "step/forward", "step/backward", "update"}));
}

TEST(TraceRange, EndsWhereAnErrorPasses) {
    TraceRecorder recorder;
    try {
        const TraceRange range("step");
        throw std::runtime_error("out");
    } catch (const std::runtime_error&) {
    }
    EXPECT_TRUE(recorder.is_balanced());
}

TEST(TraceRange, EndsAtTheSinkWhereItBegan) {
    TraceRecorder first;
    {
        const TraceRange range("step");
        const TraceRecorder second;
    }
    EXPECT_EQ(trace_sink(), nullptr);
    EXPECT_TRUE(first.is_balanced());
}

}  // namespace
}  // namespace plinth::test
