// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <zlib.h>
#include <zstd.h>

#include <string>
#include <string_view>

#include "kernels/runtime/error.h"

namespace plinth::test {

/// One gzip member that holds `content`.
inline std::string compress_gzip(std::string_view content) {
    z_stream stream{};
    constexpr int gzip = 16 + MAX_WBITS;
    CHECK(deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, gzip, 8, Z_DEFAULT_STRATEGY) ==
              Z_OK,
          "zlib cannot start");
    std::string out(deflateBound(&stream, content.size()), '\0');
    // zlib's interface takes its input as non-const and does not change it.
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
    stream.avail_in = static_cast<uInt>(content.size());
    stream.next_out = reinterpret_cast<Bytef*>(out.data());
    stream.avail_out = static_cast<uInt>(out.size());
    const int status = deflate(&stream, Z_FINISH);
    out.resize(stream.total_out);
    deflateEnd(&stream);
    CHECK(status == Z_STREAM_END, "zlib did not finish: {}", status);
    return out;
}

/// One zstd frame that holds `content`.
inline std::string compress_zstd(std::string_view content) {
    std::string out(ZSTD_compressBound(content.size()), '\0');
    const size_t size =
        ZSTD_compress(out.data(), out.size(), content.data(), content.size(), ZSTD_CLEVEL_DEFAULT);
    CHECK(!ZSTD_isError(size), "zstd: {}", ZSTD_getErrorName(size));
    out.resize(size);
    return out;
}

}  // namespace plinth::test
