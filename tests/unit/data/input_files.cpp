// SPDX-License-Identifier: Apache-2.0
#include "core/data/input_files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace plinth::core::data {
namespace {

using Paths = std::vector<std::string>;

class InputFilesTest : public ::testing::Test {
  protected:
    void write(const std::string& name) {
        std::filesystem::create_directories(std::filesystem::path(folder / name).parent_path());
        io::write_atomically(io::posix(), folder / name, name);
    }
    void link(const std::string& target, const std::string& name) {
        std::filesystem::create_symlink(target, folder / name);
    }
    InputFiles find(const std::string& input) {
        InputFiles found = find_input_files(io::posix(), {folder / input}, "prepare.inputs");
        for (std::string& path : found.paths)
            path = path.substr(folder.path().size() + 1);
        return found;
    }

    test::TemporaryFolder folder;
};

TEST_F(InputFilesTest, ALinkToAFolderAboveIsNoEndlessPath) {
    write("d/a.txt");
    write("d/e/b.txt");
    link(".", "d/X11");
    link("..", "d/e/up");
    EXPECT_EQ(find("d").paths, (Paths{"d/a.txt", "d/e/b.txt"}));
    EXPECT_EQ(find("**/*.txt").paths, (Paths{"d/a.txt", "d/e/b.txt"}));
    EXPECT_EQ(find("*/*").paths, (Paths{"d/X11/a.txt", "d/X11/e/b.txt"})) << "by their first names";
    EXPECT_EQ(find("d").skipped, 0);
}

TEST_F(InputFilesTest, AFileOfTwoNamesIsListedOnce) {
    write("d/e/b.txt");
    link("e", "d/same");
    link("e/b.txt", "d/f.txt");
    EXPECT_EQ(find("d").paths, (Paths{"d/e/b.txt"}));
    EXPECT_EQ(find("d/same").paths, (Paths{"d/same/b.txt"})) << "by the name that is given";
}

TEST_F(InputFilesTest, WhatLeadsToNoFileIsSkippedAndCounted) {
    write("d/a.txt");
    link("nothing", "d/dangling");
    link("self", "d/self");
    ASSERT_EQ(mkfifo((folder / "d/pipe").c_str(), 0600), 0);
    for (const char* input : {"d", "d/*", "**"}) {
        const InputFiles found = find(input);
        EXPECT_EQ(found.paths, (Paths{"d/a.txt"})) << input;
        EXPECT_EQ(found.skipped, 3) << input;
        EXPECT_EQ(found.skipped_text(), "3 names lead to no file and were skipped; the first: " +
                                            (folder / "d/dangling is a link to nothing"));
    }
    test::expect_error(
        ErrorKind::config,
        [&] { find_all_input_files(io::posix(), {folder / "d"}, "finetune.files"); },
        "finetune.files: ", "d/dangling is a link to nothing");
    EXPECT_EQ(find("d/a.txt").skipped_text(), "");
}

TEST_F(InputFilesTest, AnInputThatIsNoFileIsRefusedByItsKey) {
    ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
    link("nothing", "dangling");
    test::expect_error(
        ErrorKind::config, [&] { find("pipe"); },
        "prepare.inputs: ", "pipe\" names no file: ", "is a pipe, a socket or a device");
    test::expect_error(
        ErrorKind::config, [&] { find("dangling"); }, "prepare.inputs: ", "names no file");
    test::expect_error(
        ErrorKind::config, [&] { find("d*"); }, "prepare.inputs: ", "is a link to nothing");
}

}  // namespace
}  // namespace plinth::core::data
