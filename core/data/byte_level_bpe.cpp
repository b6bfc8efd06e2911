// SPDX-License-Identifier: Apache-2.0
#include "core/data/byte_level_bpe.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <queue>

#include "core/io/hash.h"
#include "kernels/runtime/error.h"

namespace plinth::core::data {

ByteLevelBpe::ByteLevelBpe(BpeModel model) : model_(std::move(model)), pretokenizer_(gpt2_pattern) {
    std::vector<std::pair<std::string, int32_t>> special;
    for (const std::string& text : model_.special_tokens) {
        const auto found = std::find(model_.tokens.begin(), model_.tokens.end(), text);
        CHECK(found != model_.tokens.end(), "special token \"{}\" has no id", text);
        special.emplace_back(text, static_cast<int32_t>(found - model_.tokens.begin()));
    }
    if (!special.empty()) end_of_document_ = special.front().second;
    special_ = SpecialTokens(std::move(special));

    const size_t capacity = std::bit_ceil(2 * model_.merges.size() + 2);
    slots_.resize(capacity);
    shift_ = 64 - std::countr_zero(capacity);
    for (size_t rank = 0; rank < model_.merges.size(); ++rank) {
        const BpeModel::Merge& merge = model_.merges[rank];
        const uint64_t pair =
            static_cast<uint64_t>(merge.left) << 32 | static_cast<uint64_t>(merge.right);
        size_t slot = slot_of(pair);
        while (slots_[slot].merged.rank != no_merge)
            slot = (slot + 1) & (capacity - 1);
        slots_[slot] = {pair, {static_cast<int32_t>(rank), merge.result}};
    }
}

ByteLevelBpe::Merged ByteLevelBpe::find_merge(int32_t left, int32_t right) const {
    const uint64_t pair = static_cast<uint64_t>(left) << 32 | static_cast<uint64_t>(right);
    size_t slot = slot_of(pair);
    while (slots_[slot].pair != pair && slots_[slot].merged.rank != no_merge) {
        slot = (slot + 1) & (slots_.size() - 1);
    }
    return slots_[slot].merged;
}

std::string_view ByteLevelBpe::token_bytes(int32_t id) const {
    REQUIRE(data, id >= 0 && id < vocab_size(), "token {} is not in the vocabulary of {}", id,
            vocab_size());
    return model_.tokens[static_cast<size_t>(id)];
}

std::string ByteLevelBpe::content_hash() const {
    io::Xxh3 hash;
    const auto add = [&hash](std::string_view text) {
        const uint64_t size = text.size();
        hash.update(std::as_bytes(std::span(&size, 1)));
        hash.update(std::as_bytes(std::span(text)));
    };
    add(kind);
    add(fmt::format("{} {} {}", model_.tokens.size(), model_.merges.size(),
                    model_.special_tokens.size()));
    for (const std::string& token : model_.tokens)
        add(token);
    hash.update(std::as_bytes(std::span(model_.merges)));
    for (const std::string& token : model_.special_tokens)
        add(token);
    return io::to_hex(hash.digest128());
}

/// Encodes piece by piece. Short pieces, nearly all of natural text, are remembered in a
/// direct-mapped table of one cache line each: a new piece replaces the old one in its slot, so
/// memory is fixed and the result never depends on the table.
class BpeEncoder : public Encoder {
  public:
    BpeEncoder(const ByteLevelBpe& owner, bool recognise_special)
        : owner_(owner),
          splitter_(owner.pretokenizer_),
          recognise_special_(recognise_special),
          cache_(cache_slots) {}

    void encode(std::string_view text, std::vector<int32_t>& ids) override {
        if (!recognise_special_) {
            encode_plain(text, ids);
            return;
        }
        owner_.special_.split(
            text, [&](std::string_view plain) { encode_plain(plain, ids); },
            [&](int32_t id) { ids.push_back(id); });
    }

  private:
    static constexpr size_t cache_slots = 1 << 15;
    static constexpr size_t longest_cached = 30;  ///< bytes
    static constexpr size_t most_cached_ids = 8;
    static constexpr size_t longest_scanned = 48;  ///< pieces beyond go through the heap

    struct alignas(64) CachedPiece {
        uint8_t length = 0;
        uint8_t count = 0;
        std::array<char, longest_cached> bytes{};
        std::array<int32_t, most_cached_ids> ids{};
    };
    static_assert(sizeof(CachedPiece) == 64);

    /// A token in a long piece; tokens that were merged into their left neighbour have id -1.
    struct Symbol {
        int32_t id, previous, next;
    };
    struct Candidate {
        int32_t rank, position;
        bool operator>(const Candidate& other) const {
            return rank != other.rank ? rank > other.rank : position > other.position;
        }
    };

    void encode_plain(std::string_view text, std::vector<int32_t>& ids) {
        splitter_.split(text, [&](std::string_view piece) { encode_piece(piece, ids); });
    }

    void encode_piece(std::string_view piece, std::vector<int32_t>& ids) {
        if (piece.size() == 1) {
            ids.push_back(owner_.model_.byte_ids[static_cast<unsigned char>(piece[0])]);
        } else if (piece.size() <= longest_cached) {
            CachedPiece& cached = cache_[hash(piece) % cache_slots];
            if (std::string_view(cached.bytes.data(), cached.length) == piece) {
                ids.insert(ids.end(), cached.ids.begin(), cached.ids.begin() + cached.count);
                return;
            }
            const size_t begin = ids.size();
            merge_by_scan(piece, ids);
            remember(piece, std::span(ids).subspan(begin), cached);
        } else if (piece.size() <= longest_scanned) {
            merge_by_scan(piece, ids);
        } else {
            merge_by_heap(piece, ids);
        }
    }

    static void remember(std::string_view piece, std::span<const int32_t> ids,
                         CachedPiece& cached) {
        if (ids.size() > most_cached_ids) return;
        cached.length = static_cast<uint8_t>(piece.size());
        cached.count = static_cast<uint8_t>(ids.size());
        std::copy(piece.begin(), piece.end(), cached.bytes.begin());
        std::copy(ids.begin(), ids.end(), cached.ids.begin());
    }

    /// For pieces of at most `longest_cached` bytes.
    static uint64_t hash(std::string_view piece) {
        std::array<uint64_t, 4> words{};
        std::memcpy(words.data(), piece.data(), piece.size());
        uint64_t mixed = piece.size();
        for (const uint64_t word : words) {
            mixed = (mixed ^ word) * 0x9E3779B97F4A7C15u;
            mixed ^= mixed >> 32;
        }
        return mixed;
    }

    /// Quadratic, and the fastest way for a few dozen bytes.
    void merge_by_scan(std::string_view piece, std::vector<int32_t>& ids) {
        std::array<int32_t, longest_scanned> symbols;
        std::array<ByteLevelBpe::Merged, longest_scanned> merges;  // of symbols i and i + 1
        size_t count = piece.size();
        for (size_t i = 0; i < count; ++i) {
            symbols[i] = owner_.model_.byte_ids[static_cast<unsigned char>(piece[i])];
            if (i > 0) merges[i - 1] = owner_.find_merge(symbols[i - 1], symbols[i]);
        }
        while (count > 1) {
            size_t best = 0;
            for (size_t i = 1; i + 1 < count; ++i) {
                if (merges[i].rank < merges[best].rank) best = i;
            }
            if (merges[best].rank == ByteLevelBpe::no_merge) break;
            symbols[best] = merges[best].result;
            std::copy(symbols.begin() + best + 2, symbols.begin() + count,
                      symbols.begin() + best + 1);
            --count;
            if (best + 1 < count) {
                std::copy(merges.begin() + best + 2, merges.begin() + count,
                          merges.begin() + best + 1);
                merges[best] = owner_.find_merge(symbols[best], symbols[best + 1]);
            }
            if (best > 0) merges[best - 1] = owner_.find_merge(symbols[best - 1], symbols[best]);
        }
        ids.insert(ids.end(), symbols.begin(), symbols.begin() + count);
    }

    /// n log n: a linked list of tokens and a heap of candidates, in which outdated entries are
    /// recognised when they come up.
    void merge_by_heap(std::string_view piece, std::vector<int32_t>& ids) {
        REQUIRE(data, piece.size() < INT32_MAX, "a single word of {} bytes is too long to encode",
                piece.size());
        const auto count = static_cast<int32_t>(piece.size());
        symbols_.clear();
        for (int32_t i = 0; i < count; ++i) {
            const auto byte = static_cast<unsigned char>(piece[static_cast<size_t>(i)]);
            symbols_.push_back({owner_.model_.byte_ids[byte], i - 1, i + 1 < count ? i + 1 : -1});
        }
        for (int32_t i = 0; i + 1 < count; ++i)
            push_candidate(i);
        while (!heap_.empty()) {
            const Candidate top = heap_.top();
            heap_.pop();
            Symbol& left = symbols_[static_cast<size_t>(top.position)];
            if (left.id < 0 || left.next < 0) continue;
            Symbol& right = symbols_[static_cast<size_t>(left.next)];
            const ByteLevelBpe::Merged merged = owner_.find_merge(left.id, right.id);
            if (merged.rank != top.rank) continue;
            left.id = merged.result;
            left.next = right.next;
            right.id = -1;
            if (left.next >= 0) symbols_[static_cast<size_t>(left.next)].previous = top.position;
            push_candidate(left.previous);
            push_candidate(top.position);
        }
        for (const Symbol& symbol : symbols_) {
            if (symbol.id >= 0) ids.push_back(symbol.id);
        }
    }

    /// Queues the pair that begins at `position`, if there is one and it merges.
    void push_candidate(int32_t position) {
        if (position < 0) return;
        const Symbol& left = symbols_[static_cast<size_t>(position)];
        if (left.next < 0) return;
        const int32_t rank =
            owner_.find_merge(left.id, symbols_[static_cast<size_t>(left.next)].id).rank;
        if (rank != ByteLevelBpe::no_merge) heap_.push({rank, position});
    }

    const ByteLevelBpe& owner_;
    PreTokenizer::Splitter splitter_;
    bool recognise_special_;
    std::vector<CachedPiece> cache_;
    std::vector<Symbol> symbols_;
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap_;
};

std::unique_ptr<Encoder> ByteLevelBpe::make_encoder(SpecialText special) const {
    return std::make_unique<BpeEncoder>(*this, special == SpecialText::recognise);
}

}  // namespace plinth::core::data
