// SPDX-License-Identifier: Apache-2.0
#include "core/autograd/scope.h"

#include <gtest/gtest.h>

#include <thread>

#include "tests/support/expect_error.h"
#include "tests/support/surroundings.h"

namespace plinth::test {
namespace {

using core::Scope;

TEST(Scope, TheInnermostOfThisThreadCounts) {
    Surroundings around;
    expect_error(
        ErrorKind::internal, [] { Scope::current(); }, "outside of any scope");
    {
        const Scope outer(around.settings());
        EXPECT_FALSE(Scope::current().tape());
        core::Tape tape;
        try {
            const Scope inner(around.settings(&tape));
            EXPECT_EQ(Scope::current().tape(), &tape);
            throw 1;
        } catch (int) {
        }
        EXPECT_EQ(&Scope::current(), &outer) << "an exception leaves the inner scope";
        std::thread([] {
            expect_error(
                ErrorKind::internal, [] { Scope::current(); }, "outside of any scope");
        }).join();
    }
    expect_error(
        ErrorKind::internal, [] { Scope::current(); }, "outside of any scope");
}

TEST(Scope, WithoutAStepStateNothingRandomRuns) {
    Surroundings around;
    Scope::Settings settings = around.settings();
    settings.step = nullptr;
    const Scope scope(settings);
    expect_error(
        ErrorKind::internal, [] { Scope::current().step(); }, "no step state");
}

}  // namespace
}  // namespace plinth::test
