// SPDX-License-Identifier: Apache-2.0
#include "core/data/special_tokens.h"

#include "kernels/runtime/error.h"

namespace plinth::core::data {

SpecialTokens::SpecialTokens(std::vector<std::pair<std::string, int32_t>> tokens)
    : tokens_(std::move(tokens)) {
    for (const auto& [text, id] : tokens_)
        CHECK(!text.empty(), "special token {} is empty", id);
}

SpecialTokens::Match SpecialTokens::find(std::string_view text) const {
    Match best{std::string_view::npos, 0, 0};
    for (const auto& [token, id] : tokens_) {
        const size_t begin = text.find(token);
        if (begin == std::string_view::npos) continue;
        if (begin < best.begin || (begin == best.begin && token.size() > best.length)) {
            best = {begin, token.size(), id};
        }
    }
    return best;
}

}  // namespace plinth::core::data
