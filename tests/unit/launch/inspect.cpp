// SPDX-License-Identifier: Apache-2.0
#include "launch/inspect.h"

#include <gtest/gtest.h>

#include "core/data/prepare.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace plinth::launch {
namespace {

using Paths = std::vector<std::string>;

TEST(Inspect, DataNamesCountsAndEntropy) {
    const test::TemporaryFolder folder;
    auto& files = core::io::posix();
    core::io::write_atomically(files, folder / "a.txt", "aabba");
    core::data::PrepareConfig config;
    config.source.inputs = {folder / "a.txt"};
    config.output = folder / "out";
    config.held_out = 0;
    core::data::prepare(config, files);
    const std::string text =
        data_text(files, config.output, core::data::inspect_dataset(files, config.output));
    for (const char* part : {"byte-bigram entropy  1.0000 bits per byte", "tokens               6",
                             "documents            1", "4 to 7", "begins aabba", "split train"})
        EXPECT_NE(text.find(part), std::string::npos) << part << " is missing in:\n" << text;
}

TEST(Inspect, AMissingFolderIsADataError) {
    test::expect_error(
        ErrorKind::data, [] { inspect_data({"/nonexistent/folder"}); }, "/nonexistent/folder");
}

TEST(Inspect, CheckpointsOfAPath) {
    const test::TemporaryFolder folder;
    auto& files = core::io::posix();
    const std::string root = folder / "checkpoints";
    for (const char* name : {"step-000000000010.attempt-0001", "step-000000000020.attempt-0001"}) {
        files.make_directories(core::io::join(root, name));
        core::io::write_atomically(files, core::io::join(root, name) + "/COMMIT", "x");
    }
    files.make_directories(
        core::io::join(root, "step-000000000030.attempt-0001"));  // not committed
    const Paths both{root + "/step-000000000020.attempt-0001",
                     root + "/step-000000000010.attempt-0001"};
    EXPECT_EQ(checkpoints_at(files, folder.path()), both);
    EXPECT_EQ(checkpoints_at(files, root), both);
    EXPECT_EQ(checkpoints_at(files, both[1]), Paths{both[1]});
    test::expect_error(
        ErrorKind::checkpoint,
        [&] { checkpoints_at(files, root + "/step-000000000030.attempt-0001"); },
        "no committed checkpoint");
}

TEST(Inspect, ADamagedCheckpointHasItsExitCode) {
    const test::TemporaryFolder folder;
    auto& files = core::io::posix();
    core::io::write_atomically(files, folder / "COMMIT", "not a commit");
    EXPECT_EQ(verify_checkpoint({folder.path()}), exit_code(ErrorKind::checkpoint));
}

}  // namespace
}  // namespace plinth::launch
