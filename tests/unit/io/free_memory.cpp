// SPDX-License-Identifier: Apache-2.0
#include "core/io/free_memory.h"

#include <gtest/gtest.h>

#include <map>

namespace plinth::core::io {
namespace {

using Files = std::map<std::string, std::string>;

std::optional<int64_t> free_in(const Files& files) {
    return free_memory([&](const std::string& path) {
        const auto found = files.find(path);
        return found == files.end() ? "" : found->second;
    });
}

constexpr const char* meminfo =
    "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    900 kB\n";

TEST(FreeMemory, IsWhatTheSystemCallsAvailable) {
    EXPECT_EQ(free_in({{"/proc/meminfo", meminfo}}), 900 * 1024);
    EXPECT_EQ(free_in({{"/proc/meminfo", meminfo}, {"/proc/self/cgroup", "0::/\n"}}), 900 * 1024);
    EXPECT_FALSE(free_in({}).has_value());
    EXPECT_FALSE(free_in({{"/proc/meminfo", "MemTotal: 1000 kB\n"}}).has_value());
}

TEST(FreeMemory, IsLessWhereAControlGroupAllowsLess) {
    Files files{{"/proc/meminfo", meminfo},
                {"/proc/self/cgroup", "0::/job/task\n"},
                {"/sys/fs/cgroup/job/task/memory.max", "max\n"},
                {"/sys/fs/cgroup/job/task/memory.current", "4096\n"},
                {"/sys/fs/cgroup/job/memory.max", "819200\n"},
                {"/sys/fs/cgroup/job/memory.current", "40960\n"}};
    EXPECT_EQ(free_in(files), 819200 - 40960) << "of the group around it";
    files["/sys/fs/cgroup/job/memory.stat"] = "anon 1\ninactive_file 8192\nactive_file 4096\n";
    EXPECT_EQ(free_in(files), 819200 - 40960 + 8192);
    files["/sys/fs/cgroup/job/task/memory.max"] = "8192\n";
    EXPECT_EQ(free_in(files), 4096);
    files["/sys/fs/cgroup/job/task/memory.current"] = "10000\n";
    EXPECT_EQ(free_in(files), 0);
    // A container that sees its group as the root.
    EXPECT_EQ(free_in({{"/proc/meminfo", meminfo},
                       {"/proc/self/cgroup", "0::/kubepods/pod1\n"},
                       {"/sys/fs/cgroup/memory.max", "65536\n"},
                       {"/sys/fs/cgroup/memory.current", "1024\n"}}),
              64512);
}

TEST(FreeMemory, KnowsTheFirstVersionOfControlGroups) {
    const Files files{{"/proc/meminfo", meminfo},
                      {"/proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/b\n0::/c\n"},
                      {"/sys/fs/cgroup/memory/b/memory.limit_in_bytes", "20480\n"},
                      {"/sys/fs/cgroup/memory/b/memory.usage_in_bytes", "8192\n"},
                      {"/sys/fs/cgroup/memory/b/memory.stat", "total_inactive_file 4096\n"},
                      {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"},
                      {"/sys/fs/cgroup/memory/memory.usage_in_bytes", "8192\n"}};
    EXPECT_EQ(free_in(files), 16384);
}

TEST(FreeMemory, OfThisMachine) {
    const auto bytes = free_memory();
    ASSERT_TRUE(bytes.has_value());
    EXPECT_GT(*bytes, 0);
}

}  // namespace
}  // namespace plinth::core::io
