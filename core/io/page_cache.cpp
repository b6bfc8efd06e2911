// SPDX-License-Identifier: Apache-2.0
#include "core/io/page_cache.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

namespace plinth::core::io {

namespace {

/// Whether a page of an open file is in memory, or nobody says.
bool may_be_in_memory(int file) {
    struct stat status {};
    if (::fstat(file, &status) != 0) return true;
    const auto bytes = static_cast<size_t>(status.st_size);
    if (bytes == 0) return false;
    void* mapped = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED) return true;
    const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
    std::vector<unsigned char> pages((bytes + page - 1) / page);
    const bool is_known = ::mincore(mapped, bytes, pages.data()) == 0;
    ::munmap(mapped, bytes);
    return !is_known ||
           std::ranges::any_of(pages, [](unsigned char one) { return (one & 1) != 0; });
}

}  // namespace

bool drop_from_page_cache(const std::string& path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) return false;
    const bool is_asked = ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) == 0;
    const bool is_dropped = is_asked && !may_be_in_memory(file);
    ::close(file);
    return is_dropped;
}

}  // namespace plinth::core::io
