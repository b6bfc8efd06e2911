// SPDX-License-Identifier: Apache-2.0
// Any bytes as manifest, index, table or COMMIT must decode or be refused with an error of kind
// checkpoint, with memory in proportion to the input; what decodes must encode to the same struct.
// The first byte picks the parser.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "checkpoints/format.h"
#include "checkpoints/manifest.h"
#include "checkpoints/reshard.h"
#include "kernels/runtime/error.h"

namespace {

using namespace plinth::checkpoints;

void expect(bool condition) {
    if (!condition) std::abort();
}

/// The size of the data file that the pieces of a valid index fill.
uint64_t data_size(const Index& index) {
    const Piece* last = index.pieces.empty() ? nullptr : &index.pieces.back();
    return superblock_bytes +
           (last ? last->offset + padded(last->bytes()) : uint64_t{superblock_bytes});
}

void parse(uint8_t parser, std::string_view bytes) {
    switch (parser % 4) {
        case 0: {
            const Root root = decode_root(bytes, "manifest");
            expect(decode_root(encode(root), "manifest") == root);
            break;
        }
        case 1: {
            // Two bytes of size in units of the alignment, so that small inputs can be valid.
            if (bytes.size() < 2) return;
            const auto units = static_cast<uint64_t>(static_cast<uint8_t>(bytes[0])) |
                               static_cast<uint64_t>(static_cast<uint8_t>(bytes[1])) << 8;
            const Index index = decode_index(bytes.substr(2), units * alignment, "index");
            expect(data_size(index) == units * alignment);
            expect(decode_index(encode(index), units * alignment, "index") == index);
            for (const Piece& piece : index.pieces)
                coverage_problem(piece.shard.global_shape, {&piece.shard, 1});
            break;
        }
        case 2:
            decode_table(bytes);
            break;
        case 3:
            expect(render(parse_commit(bytes, "COMMIT")) == bytes);
            break;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size == 0) return 0;
    try {
        parse(data[0], {reinterpret_cast<const char*>(data) + 1, size - 1});
    } catch (const plinth::Error& error) {
        expect(error.kind() == plinth::ErrorKind::checkpoint);
    }
    return 0;
}
