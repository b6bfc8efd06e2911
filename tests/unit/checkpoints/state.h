// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>
#include <deque>
#include <numeric>
#include <string>
#include <vector>

#include "checkpoints/checkpoint.h"
#include "checkpoints/writer.h"
#include "core/tensor/shard.h"

/// A tiny training state for the tests of this folder: deterministic bytes, several dtypes, a
/// scalar, an empty tensor and sizes that no cut divides.
namespace plinth::checkpoints::test {

inline const std::string run_a = "00112233445566778899aabbccddeeff";
inline const std::string run_b = "ffeeddccbbaa99887766554433221100";

/// Owns the tensors of one rank.
class State {
  public:
    /// Global bytes are a function of name, element and `seed`; the shard picks its elements.
    void add(const std::string& name, DType dtype, const core::Shard& shard, uint64_t seed) {
        const Shape& shape = shard.global_shape;
        std::vector<uint8_t> global(static_cast<size_t>(shape.elements()) * size_of(dtype));
        uint64_t state = seed * 0x9e3779b97f4a7c15ull + 1;
        for (const char c : name)
            state = (state ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
        for (uint8_t& byte : global) {
            state = state * 6364136223846793005ull + 1442695040888963407ull;
            byte = static_cast<uint8_t>(state >> 56);
        }
        const size_t element = size_of(dtype);
        std::vector<uint8_t>& mine =
            buffers_.emplace_back(static_cast<size_t>(shard.elements()) * element);
        // Element by element through coordinates: an oracle independent of the library's runs.
        for (int64_t i = 0; i < shard.elements(); ++i) {
            int64_t rest = shard.begin + i, flat = 0, stride = 1;
            for (int dim = shape.rank() - 1; dim >= 0; --dim) {
                flat += (rest % shard.local_shape[dim] + shard.offset[dim]) * stride;
                rest /= shard.local_shape[dim];
                stride *= shape[dim];
            }
            std::memcpy(&mine[static_cast<size_t>(i) * element],
                        &global[static_cast<size_t>(flat) * element], element);
        }
        tensors.push_back({name, dtype, shard, mine.data()});
    }
    void clear() {
        for (auto& buffer : buffers_)
            std::fill(buffer.begin(), buffer.end(), uint8_t{0xee});
    }
    bool operator==(const State& other) const { return buffers_ == other.buffers_; }

    std::vector<core::StateTensor> tensors;

  private:
    std::deque<std::vector<uint8_t>> buffers_;
};

struct Entry {
    std::string name;
    DType dtype;
    Shape shape;
};

inline std::vector<Entry> tiny_table() {
    return {{"model.embedding.weight", DType::f32, {13, 8}},
            {"model.norm.weight", DType::f32, {7}},
            {"optimizer.m.model.embedding.weight", DType::bf16, {13, 8}},
            {"optimizer.count", DType::i64, {}},
            {"model.empty", DType::f32, {0, 4}},
            {"model.table", DType::u8, {129}}};
}

/// More than a MiB in one tensor, several cuts in others.
inline std::vector<Entry> larger_table() {
    return {{"model.a", DType::f32, {700, 513}},
            {"model.b", DType::f32, {5}},
            {"model.c", DType::bf16, {3000, 40}},
            {"model.d", DType::f64, {1024, 3}}};
}

inline State replicated(const std::vector<Entry>& table, uint64_t seed) {
    State state;
    for (const Entry& entry : table)
        state.add(entry.name, entry.dtype, core::Shard::whole(entry.shape), seed);
    return state;
}

inline Manifest small_manifest(int64_t step) {
    Manifest manifest;
    manifest.configuration = "train:\n  steps: 10  # \xff is not UTF-8\n";
    manifest.counters = {{"consumed_samples", step * 32}, {"updates", step}, {"skipped", -1}};
    manifest.properties = {{"isa", "avx2"}, {"protobuf", "3.21"}};
    manifest.blobs = {{"sampler", std::string("\0\1\2", 3)}};
    manifest.mesh = {{"tp", 1}, {"dp", 2}};
    manifest.files = {{"vocab.json", "{\"a\": 0}"}, {"merges.txt", ""}};
    return manifest;
}

inline SaveRequest request(const State& state, int64_t step, const std::string& root = "run",
                           const std::string& run_id = run_a) {
    return {root, run_id, step, small_manifest(step), state.tensors};
}

}  // namespace plinth::checkpoints::test
