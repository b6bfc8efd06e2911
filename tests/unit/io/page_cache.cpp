// SPDX-License-Identifier: Apache-2.0
#include "core/io/page_cache.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/io/file.h"
#include "tests/support/temporary_folder.h"

namespace plinth::core::io {
namespace {

TEST(PageCache, AFileThatIsNotThereIsNotDropped) {
    EXPECT_FALSE(drop_from_page_cache("/nonexistent/file"));
}

TEST(PageCache, AFileInMemoryIsNotDropped) {
    const int file = ::memfd_create("page_cache", MFD_CLOEXEC);
    ASSERT_GE(file, 0);
    const std::string content(1 << 16, 'x');
    ASSERT_EQ(::write(file, content.data(), content.size()), static_cast<ssize_t>(content.size()));
    EXPECT_FALSE(drop_from_page_cache(fmt::format("/proc/self/fd/{}", file)));
    ::close(file);
}

TEST(PageCache, ADroppedFileHasItsBytes) {
    const test::TemporaryFolder folder;
    const std::string path = join(folder.path(), "file"), content(3 << 20, 'x');
    write_atomically(posix(), path, content);
    const bool is_dropped = drop_from_page_cache(path);
    EXPECT_EQ(read_all(posix(), path), content);
    if (!is_dropped) GTEST_SKIP() << "this file system keeps its files in memory";
}

}  // namespace
}  // namespace plinth::core::io
