// SPDX-License-Identifier: Apache-2.0
// What the integration tests do to checkpoints.
//   checkpoint_tool hash CHECKPOINT             counters, sampler, and the hash of each tensor
//   checkpoint_tool edit CHECKPOINT ROOT EDIT   a copy, saved under ROOT, with one thing altered:
//     none | counter NAME DELTA | consumed DELTA | zero PREFIX | bf16 PREFIX | forget BLOB |
//     pad ROWS MULTIPLE (as programs saved it that padded a vocabulary to that in checkpoints too)
// Edits are the mutants of the resume test: what a program would load that forgot a part of its
// state.
#include <fmt/core.h>

#include <string>
#include <vector>

#include "checkpoints/reader.h"
#include "checkpoints/writer.h"
#include "core/io/hash.h"
#include "core/io/json.h"
#include "core/tensor/shapes.h"
#include "kernels/runtime/error.h"

namespace {

using namespace plinth;
using checkpoints::Checkpoint;
using checkpoints::Manifest;
using checkpoints::TensorInfo;

/// A tensor's bytes, whole.
struct Bytes {
    TensorInfo info;
    std::vector<std::byte> data;
};

/// Every block's checksum is checked on the way.
std::vector<Bytes> read_tensors(const Checkpoint& checkpoint) {
    std::vector<Bytes> tensors;
    for (const TensorInfo& info : checkpoint.manifest().tensors) {
        Bytes tensor{info, {}};
        tensor.data.resize(static_cast<size_t>(info.global_shape.elements()) * size_of(info.dtype));
        checkpoint.read(info.name, core::Shard::whole(info.global_shape), tensor.data.data());
        tensors.push_back(std::move(tensor));
    }
    return tensors;
}

void print_hashes(const Checkpoint& checkpoint) {
    for (const auto& [name, value] : checkpoint.manifest().counters)
        fmt::print("counter.{} {}\n", name, value);
    for (const auto& [name, bytes] : checkpoint.manifest().blobs)
        fmt::print("blob.{} {}\n", name, core::io::to_hex(core::io::xxh3_128(bytes)));
    for (const Bytes& tensor : read_tensors(checkpoint))
        fmt::print("{} {}\n", tensor.info.name, core::io::to_hex(core::io::xxh3_128(tensor.data)));
}

void round_to_bf16(std::vector<std::byte>& data) {
    // Cutting the lower half of each little-endian float is rounding enough for a mutant.
    for (size_t i = 0; i + 3 < data.size(); i += 4)
        data[i] = data[i + 1] = std::byte{0};
}

void edit_tensors(std::vector<Bytes>& tensors, const std::string& kind, const std::string& prefix) {
    bool found = false;
    for (Bytes& tensor : tensors) {
        if (!tensor.info.name.starts_with(prefix)) continue;
        found = true;
        if (kind == "zero") std::fill(tensor.data.begin(), tensor.data.end(), std::byte{0});
        if (kind == "bf16") round_to_bf16(tensor.data);
    }
    REQUIRE(config, found, "no tensor's name begins with '{}'", prefix);
}

/// Tables, heads and their moments get rows of numbers that no training would survive.
void pad(Manifest& manifest, std::vector<Bytes>& tensors, int64_t rows,
         const std::string& multiple) {
    for (Bytes& tensor : tensors) {
        const std::string& name = tensor.info.name;
        if (!name.ends_with(".embedding.tokens.weight") && !name.ends_with(".head.weight"))
            continue;
        tensor.info.global_shape = core::with_first_dim(tensor.info.global_shape, rows);
        tensor.data.resize(
            static_cast<size_t>(tensor.info.global_shape.elements()) * size_of(tensor.info.dtype),
            std::byte{0x7f});
    }
    std::string& text = manifest.configuration;
    const std::string key = "vocab_multiple: ";
    const size_t at = text.find(key) + key.size();
    text.replace(at, text.find('\n', at) - at, multiple);
}

void edit(Manifest& manifest, std::vector<Bytes>& tensors, const std::vector<std::string>& words) {
    const std::string& kind = words.at(0);
    if (kind == "none") return;
    if (kind == "zero" || kind == "bf16") return edit_tensors(tensors, kind, words.at(1));
    if (kind == "pad") return pad(manifest, tensors, std::stoll(words.at(1)), words.at(2));
    if (kind == "counter") {
        manifest.counters.at(words.at(1)) += std::stoll(words.at(2));
    } else if (kind == "forget") {
        REQUIRE(config, manifest.blobs.erase(words.at(1)) == 1, "no blob '{}'", words.at(1));
    } else if (kind == "consumed") {
        auto sampler = core::io::Json::parse(manifest.blob("sampler"), "sampler");
        sampler["consumed"] = sampler.get_int("consumed") + std::stoll(words.at(1));
        manifest.blobs["sampler"] = sampler.dump();
    } else {
        FAIL(config, "unknown edit '{}'", kind);
    }
}

void save_edited(const Checkpoint& checkpoint, const std::string& root,
                 const std::vector<std::string>& words) {
    Manifest manifest = checkpoint.manifest();
    std::vector<Bytes> tensors = read_tensors(checkpoint);
    edit(manifest, tensors, words);
    std::vector<core::StateTensor> state;
    for (Bytes& tensor : tensors)
        state.push_back({tensor.info.name, tensor.info.dtype,
                         core::Shard::whole(tensor.info.global_shape), tensor.data.data()});
    core::SelfRanks self;
    checkpoints::Writer writer(core::io::posix(), self, {.node = "edited"});
    const auto outcome =
        writer.save({root, manifest.run_id, manifest.counter("steps"), manifest, state});
    REQUIRE(io, outcome.committed, "{}", outcome.message);
}

int run(const std::vector<std::string>& words) {
    REQUIRE(config, words.size() >= 2, "usage: hash CHECKPOINT | edit CHECKPOINT ROOT EDIT");
    const auto checkpoint = Checkpoint::open(core::io::posix(), words[1]);
    if (words[0] == "hash")
        print_hashes(checkpoint);
    else
        save_edited(checkpoint, words.at(2), {words.begin() + 3, words.end()});
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run({argv + 1, argv + argc});
    } catch (const std::exception& error) {
        fmt::print(stderr, "checkpoint_tool: {}\n", error.what());
        return 1;
    }
}
