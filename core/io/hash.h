// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace plinth::core::io {

/// A 128-bit hash; `low` equals no 64-bit hash in general.
struct Hash128 {
    uint64_t high = 0;
    uint64_t low = 0;
    auto operator<=>(const Hash128&) const = default;
};

/// XXH3 (xxHash 0.8): fast hashes for identity of files and documents. Not cryptographic.
uint64_t xxh3_64(std::span<const std::byte> bytes, uint64_t seed = 0);
uint64_t xxh3_64(std::string_view text, uint64_t seed = 0);
Hash128 xxh3_128(std::span<const std::byte> bytes, uint64_t seed = 0);
Hash128 xxh3_128(std::string_view text, uint64_t seed = 0);

/// The same over a stream of pieces; the digests may be taken at any time and do not end it.
class Xxh3 {
  public:
    explicit Xxh3(uint64_t seed = 0);
    ~Xxh3();
    Xxh3(Xxh3&&) noexcept;
    Xxh3& operator=(Xxh3&&) noexcept;

    void update(std::span<const std::byte> bytes);
    uint64_t digest64() const;
    Hash128 digest128() const;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

/// Lower-case hexadecimal, most significant digit first: 16 or 32 digits.
std::string to_hex(uint64_t hash);
std::string to_hex(const Hash128& hash);

}  // namespace plinth::core::io
