// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace plinth::core::data {

/// The text that conventionally ends a document.
inline constexpr const char* end_of_text = "<|endoftext|>";

/// Finds the texts of special tokens in prompts: leftmost first, the longest of those that begin at
/// the same place.
class SpecialTokens {
  public:
    SpecialTokens() = default;
    explicit SpecialTokens(std::vector<std::pair<std::string, int32_t>> tokens);

    struct Match {
        size_t begin;  ///< npos: none
        size_t length;
        int32_t id;
    };
    Match find(std::string_view text) const;

    /// Calls `plain(text)` for each stretch between special tokens and `special(id)` for each one.
    template <typename Plain, typename Special>
    void split(std::string_view text, Plain&& plain, Special&& special) const {
        while (!text.empty()) {
            const Match match = find(text);
            plain(text.substr(0, match.begin));
            if (match.begin == std::string_view::npos) return;
            special(match.id);
            text.remove_prefix(match.begin + match.length);
        }
    }

  private:
    std::vector<std::pair<std::string, int32_t>> tokens_;
};

}  // namespace plinth::core::data
