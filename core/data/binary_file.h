// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "core/io/file.h"

namespace plinth::core::data {

/// The share of bytes that text has none or few of: control characters but white space, backspace
/// and escape, and what is not well-formed UTF-8. A sequence that ends with `bytes` is no fault.
double share_of_no_text(std::string_view bytes);

/// Why a file cannot be text, as a clause: "73 % of its first 65536 bytes are control characters or
/// not UTF-8"; empty if it can be. Judged by its first 64 KiB, decompressed: text has up to 30 % of
/// such bytes. So UTF-16, pictures and programs are found, and a text with damaged places or in
/// Latin-1 passes.
std::string why_binary(io::FileSystem& files, const io::ReadableFile& file);

}  // namespace plinth::core::data
