// SPDX-License-Identifier: Apache-2.0
#include "core/io/hash.h"

#define XXH_STATIC_LINKING_ONLY  // for the state's size and alignment
#include <xxhash.h>

#include "kernels/runtime/error.h"

namespace plinth::core::io {
namespace {
std::span<const std::byte> bytes_of(std::string_view text) {
    return std::as_bytes(std::span(text));
}
}  // namespace

uint64_t xxh3_64(std::span<const std::byte> bytes, uint64_t seed) {
    return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}
uint64_t xxh3_64(std::string_view text, uint64_t seed) {
    return xxh3_64(bytes_of(text), seed);
}

Hash128 xxh3_128(std::span<const std::byte> bytes, uint64_t seed) {
    const XXH128_hash_t hash = XXH3_128bits_withSeed(bytes.data(), bytes.size(), seed);
    return {hash.high64, hash.low64};
}
Hash128 xxh3_128(std::string_view text, uint64_t seed) {
    return xxh3_128(bytes_of(text), seed);
}

// Both widths share one state and differ only in how they finish it.
struct Xxh3::State {
    XXH3_state_t xxh;
};

Xxh3::Xxh3(uint64_t seed) : state_(std::make_unique<State>()) {
    XXH3_INITSTATE(&state_->xxh);
    XXH3_64bits_reset_withSeed(&state_->xxh, seed);
}
Xxh3::~Xxh3() = default;
Xxh3::Xxh3(Xxh3&&) noexcept = default;
Xxh3& Xxh3::operator=(Xxh3&&) noexcept = default;

void Xxh3::update(std::span<const std::byte> bytes) {
    CHECK(XXH3_64bits_update(&state_->xxh, bytes.data(), bytes.size()) == XXH_OK,
          "xxHash refused {} bytes", bytes.size());
}
uint64_t Xxh3::digest64() const {
    return XXH3_64bits_digest(&state_->xxh);
}
Hash128 Xxh3::digest128() const {
    const XXH128_hash_t hash = XXH3_128bits_digest(&state_->xxh);
    return {hash.high64, hash.low64};
}

std::string to_hex(uint64_t hash) {
    return fmt::format("{:016x}", hash);
}
std::string to_hex(const Hash128& hash) {
    return to_hex(hash.high) + to_hex(hash.low);
}

}  // namespace plinth::core::io
