// SPDX-License-Identifier: Apache-2.0
// A token index must be refused with an error of kind data, at opening or at use, or be sound.
// Input: two bytes, the size of a .bin of zeros; then the .idx.
#include <algorithm>
#include <cstdlib>
#include <string>

#include "core/data/token_shard.h"
#include "kernels/runtime/error.h"
#include "tests/support/memory_file.h"

namespace {

using namespace plinth;
using core::data::DocumentStart;
using core::data::TokenShard;
using test::MemoryFile;

void expect(bool condition) {
    if (!condition) std::abort();
}

/// What holds for the documents of any window of any shard that is not refused.
void check_window(const TokenShard& shard, int64_t begin, int64_t end) {
    const auto found = shard.documents_in(begin, end);
    expect(!found.empty());
    for (size_t i = 0; i < found.size(); ++i) {
        expect(found[i].document >= 0 && found[i].document < shard.documents());
        expect(found[i].token < end && (i == 0 || found[i].token > found[i - 1].token));
    }
}

void use(const TokenShard& shard) {
    for (int64_t begin = 0; begin < shard.tokens(); begin += 1 + shard.tokens() / 7) {
        std::vector<int32_t> tokens(
            static_cast<size_t>(std::min<int64_t>(shard.tokens() - begin, 64)));
        shard.read_tokens(begin, tokens);
        check_window(shard, begin, begin + static_cast<int64_t>(tokens.size()));
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    if (size < 2) return 0;
    std::string bin(static_cast<size_t>(bytes[0] + 256 * bytes[1]), '\0');
    std::string idx(reinterpret_cast<const char*>(bytes + 2), size - 2);
    try {
        const TokenShard shard(std::make_unique<MemoryFile>(std::move(bin)),
                               std::make_unique<MemoryFile>(std::move(idx)));
        bool sound = true;
        try {
            shard.verify(1);
        } catch (const Error& error) {
            expect(error.kind() == ErrorKind::data);
            sound = false;
        }
        try {
            use(shard);
        } catch (const Error& error) {
            expect(error.kind() == ErrorKind::data);
            expect(!sound || shard.documents() == 0);
        }
    } catch (const Error& error) {
        expect(error.kind() == ErrorKind::data);
    }
    return 0;
}
