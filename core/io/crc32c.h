// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace plinth::core::io {

/// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78) of what `crc` covers followed by `bytes`;
/// start with 0: crc32c(crc32c(0, a), b) == crc32c(0, ab). Uses the SSE4.2 instruction where the
/// processor has it.
uint32_t crc32c(uint32_t crc, std::span<const std::byte> bytes);

/// The same by tables, for processors without the instruction.
uint32_t crc32c_by_tables(uint32_t crc, std::span<const std::byte> bytes);

}  // namespace plinth::core::io
