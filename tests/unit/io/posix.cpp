// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <fstream>

#include "core/io/file.h"
#include "tests/support/expect_error.h"
#include "tests/support/faulty_files.h"
#include "tests/support/forwarding_files.h"
#include "tests/support/temporary_folder.h"

namespace plinth::core::io {
namespace {

using test::expect_error;
using test::Fault;
using test::FaultyFiles;
using test::TemporaryFolder;

std::span<const std::byte> bytes(std::string_view text) {
    return std::as_bytes(std::span(text));
}

/// The content by another road than the code under test.
std::string content_of(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

TEST(Posix, AppendsWritesAtAndReadsAtOffsets) {
    TemporaryFolder folder;
    const std::string path = folder / "file";
    auto out = posix().open_write(path, OpenMode::create_new);
    out->append(bytes("hello "));
    out->append(bytes("world"));
    out->write_at(0, bytes("J"));
    out->append(bytes("!"));
    out->sync();
    out->close();
    out->close();  // harmless
    EXPECT_EQ(content_of(path), "Jello world!");

    const auto in = posix().open_read(path);
    EXPECT_EQ(in->size(), 12u);
    EXPECT_EQ(in->path(), path);
    std::string part(5, '\0');
    in->read_at(6, std::as_writable_bytes(std::span(part)));
    EXPECT_EQ(part, "world");
}

TEST(Posix, OpenModes) {
    TemporaryFolder folder;
    const std::string path = folder / "file";
    posix().open_write(path, OpenMode::truncate)->append(bytes("abcdef"));
    expect_error(
        ErrorKind::io, [&] { posix().open_write(path, OpenMode::create_new); }, "create", path,
        "exists");
    posix().open_write(path, OpenMode::update)->write_at(2, bytes("XY"));
    EXPECT_EQ(content_of(path), "abXYef");
    auto out = posix().open_write(path, OpenMode::append);
    out->append(bytes("gh"));
    out->append(bytes("i"));
    out->close();
    EXPECT_EQ(content_of(path), "abXYefghi");
    posix().open_write(path, OpenMode::truncate)->append(bytes("z"));
    EXPECT_EQ(content_of(path), "z");
}

TEST(Posix, ANewFileIsNobodyElses) {
    TemporaryFolder folder;
    const std::string path = folder / "file";
    posix().open_new(path)->append(bytes("first"));
    EXPECT_EQ(posix().open_new(path), nullptr);
    EXPECT_EQ(content_of(path), "first");
    expect_error(
        ErrorKind::io, [&] { posix().open_new(folder / "no/file"); }, "create", "no/file");
}

/// A file system on which a file is replaced while it is read.
class Replaced final : public test::ForwardingFiles {
  public:
    Replaced(FileSystem& base, int times) : ForwardingFiles(base), times_(times) {}
    std::unique_ptr<ReadableFile> open_read(const std::string& path) override {
        if (times_-- > 0) FAIL(io, "cannot open {}: stale file handle", path);
        return ForwardingFiles::open_read(path);
    }

  private:
    int times_;
};

TEST(Posix, ReadsAFileThatOthersReplaceOrRemove) {
    TemporaryFolder folder;
    const std::string path = folder / "file";
    EXPECT_EQ(read_if_there(posix(), path), std::nullopt);
    posix().open_new(path)->append(bytes("content"));
    EXPECT_EQ(read_if_there(posix(), path), "content");
    Replaced now_and_then(posix(), 3), always(posix(), 4);
    EXPECT_EQ(read_if_there(now_and_then, path), "content");
    expect_error(
        ErrorKind::io, [&] { read_if_there(always, path); }, "stale file handle");
}

TEST(Posix, ReadingPastTheEndNamesPathAndOffset) {
    TemporaryFolder folder;
    const std::string path = folder / "short";
    posix().open_write(path, OpenMode::truncate)->append(bytes("1234"));
    const auto in = posix().open_read(path);
    std::array<std::byte, 4> buffer{};
    expect_error(
        ErrorKind::io, [&] { in->read_at(2, buffer); }, "4 bytes", "offset 2", path,
        "ends at offset 4");
}

TEST(Posix, RefusalsNameOperationPathAndReason) {
    TemporaryFolder folder;
    expect_error(
        ErrorKind::io, [&] { posix().open_read(folder / "none"); }, "open", folder / "none",
        "No such file");
    expect_error(
        ErrorKind::io, [&] { posix().open_read(folder.path()); }, folder.path(), "directory");
    expect_error(
        ErrorKind::io, [&] { posix().list(folder / "none"); }, "list", "No such file");
    expect_error(
        ErrorKind::io, [&] { posix().remove(folder / "none"); }, "remove", "No such file");
    expect_error(
        ErrorKind::io, [&] { posix().rename(folder / "none", folder / "x"); }, "rename",
        folder / "none", folder / "x");
    posix().open_write(folder / "plain", OpenMode::truncate)->close();
    expect_error(
        ErrorKind::io, [&] { posix().make_directories(folder / "plain/sub"); },
        folder / "plain/sub", "Not a directory");
    EXPECT_FALSE(posix().exists(folder / "plain/sub"));
}

TEST(Posix, FullDiskSaysHowMuchWasWanted) {
    if (!posix().exists("/dev/full")) GTEST_SKIP() << "this system has no /dev/full";
    const auto out = posix().open_write("/dev/full", OpenMode::update);
    const std::string block(5000, 'x');
    expect_error(
        ErrorKind::io, [&] { out->append(bytes(block)); }, "write 5000 bytes", "/dev/full",
        "No space left");
}

TEST(Posix, ShortWriteIsContinuedAndThenReported) {
    // A file size limit makes the kernel write the first part only, then refuse the rest.
    TemporaryFolder folder;
    rlimit old{};
    ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limited{1000, old.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limited), 0);
    const std::string block(1500, 'x');
    expect_error(
        ErrorKind::io,
        [&] { posix().open_write(folder / "f", OpenMode::truncate)->append(bytes(block)); },
        "write 1500 bytes", "1000 of them written", "too large");
    setrlimit(RLIMIT_FSIZE, &old);
    std::signal(SIGXFSZ, handler);
}

TEST(Posix, Folders) {
    TemporaryFolder folder;
    posix().make_directories(folder / "a/b/c");
    posix().make_directories(folder / "a/b/c");
    EXPECT_TRUE(posix().is_directory(folder / "a/b"));
    EXPECT_TRUE(posix().create_directory(folder / "one"));
    EXPECT_FALSE(posix().create_directory(folder / "one"));
    expect_error(
        ErrorKind::io, [&] { posix().create_directory(folder / "none/below"); },
        "create the folder", "No such file");
    for (const char* name : {"z", "B", "a", "\xc3\xa9"})
        posix().open_write(folder / "a/b/c/" + name, OpenMode::create_new)->close();
    EXPECT_EQ(posix().list(folder / "a/b/c"),
              (std::vector<std::string>{"B", "a", "z", "\xc3\xa9"}));
    posix().rename(folder / "a/b/c/z", folder / "a/y");
    EXPECT_TRUE(posix().exists(folder / "a/y"));
    posix().sync_directory(folder.path());
    posix().remove(folder / "a/y");
    posix().remove_all(folder / "a");
    posix().remove_all(folder / "a");
    EXPECT_FALSE(posix().exists(folder / "a"));
}

TEST(Posix, DescriptorsAreClosedOnExec) {
    TemporaryFolder folder;
    const auto out = posix().open_write(folder / "f", OpenMode::truncate);
    int checked = 0;
    for (int number = 3; number < 64; ++number) {
        char target[4096];
        const std::string link = fmt::format("/proc/self/fd/{}", number);
        const ssize_t length = ::readlink(link.c_str(), target, sizeof target);
        if (length < 0 || std::string(target, static_cast<size_t>(length)) != folder / "f")
            continue;
        EXPECT_TRUE(::fcntl(number, F_GETFD) & FD_CLOEXEC);
        ++checked;
    }
    EXPECT_EQ(checked, 1);
}

TEST(WriteAtomically, ShowsOldOrNewAtEveryFault) {
    TemporaryFolder folder;
    const std::string path = folder / "state";
    write_atomically(posix(), path, "old");
    EXPECT_EQ(read_all(posix(), path), "old");
    FaultyFiles counter(posix());
    write_atomically(counter, path, "old");
    ASSERT_GE(counter.operations(), 6);  // create, write, sync, close, rename, sync of the folder
    for (int64_t k = 0; k < counter.operations(); ++k) {
        FaultyFiles faulty(posix(), {.operation = k, .reason = EIO, .short_write = true});
        expect_error(
            ErrorKind::io, [&] { write_atomically(faulty, path, "new"); }, "Input/output error");
        const bool renamed = k == counter.operations() - 1;
        EXPECT_EQ(content_of(path), renamed ? "new" : "old") << "operation " << k;
        EXPECT_EQ(posix().list(folder.path()).size(), 1u) << "left over after operation " << k;
        write_atomically(posix(), path, "old");
    }
}

TEST(FaultyFiles, OneShotAndSticky) {
    TemporaryFolder folder;
    FaultyFiles once(posix(), {.operation = 1});
    EXPECT_FALSE(once.exists(folder / "x"));
    expect_error(
        ErrorKind::io, [&] { once.exists(folder / "x"); }, "No space left");
    EXPECT_FALSE(once.exists(folder / "x"));
    FaultyFiles sticky(posix(), {.operation = 0, .sticky = true, .writes_only = true});
    EXPECT_FALSE(sticky.exists(folder / "x"));
    for (int i = 0; i < 3; ++i)
        EXPECT_THROW(sticky.make_directories(folder / "x"), Error);
    EXPECT_TRUE(sticky.failed());
    EXPECT_EQ(sticky.operations(), 3);
}

TEST(Join, Paths) {
    EXPECT_EQ(join("a", "b"), "a/b");
    EXPECT_EQ(join("a/", "b"), "a/b");
    EXPECT_EQ(join("", "b"), "b");
    EXPECT_EQ(join("a", "/b"), "/b");
    EXPECT_EQ(join("a", ""), "a");
}

}  // namespace
}  // namespace plinth::core::io
