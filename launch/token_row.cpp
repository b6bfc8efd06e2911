// SPDX-License-Identifier: Apache-2.0
#include "launch/token_row.h"

#include <algorithm>
#include <numeric>

#include "core/data/cleaning.h"
#include "core/data/dataset.h"
#include "core/data/text_source.h"
#include "core/io/hash.h"
#include "kernels/runtime/error.h"

namespace plinth::launch {

namespace {

/// Text is a file, too, but one that another evaluate.format reads.
void require_folder(core::io::FileSystem& files, const std::string& path) {
    using Kind = core::io::FileStatus::Kind;
    const Kind kind = files.status(path).kind;
    REQUIRE(data, kind != Kind::none, "evaluate.data: {}: no such file or folder", path);
    REQUIRE(data, kind == Kind::folder,
            "evaluate.data: {} is a file, but evaluate.format=shards reads folders that `plinth "
            "data prepare` wrote; files are read with evaluate.format=text, jsonl or "
            "classification",
            path);
}

}  // namespace

TokenRow open_shards(core::io::FileSystem& files, const std::string& folder,
                     const std::string& split, const core::data::Tokenizer& tokenizer) {
    require_folder(files, folder);
    const auto set = core::data::Dataset::open(files, folder, split);
    REQUIRE(data, set->manifest().tokenizer_hash == tokenizer.content_hash(),
            "{}: was prepared with another tokenizer ({}) than the checkpoint's ({}); prepare the "
            "text with the checkpoint's, or evaluate the raw text with evaluate.format=text",
            folder, set->manifest().tokenizer, tokenizer.name());
    return {folder + " " + split, set, set->tokens()};
}

TokenRow read_text_row(core::io::FileSystem& files, const std::string& input, EvaluateFormat format,
                       const std::string& field, const core::data::Tokenizer& tokenizer,
                       int64_t most_tokens) {
    core::data::TextSource source(
        files, {.inputs = {input},
                .format = format == EvaluateFormat::jsonl ? core::data::TextFormat::jsonl
                                                          : core::data::TextFormat::text,
                .field = field,
                .keys = {.inputs = "evaluate.data"}});
    const core::data::Cleaner cleaner({});
    const auto encoder = tokenizer.make_encoder();
    core::data::BadLines bad_lines(0);
    std::vector<int32_t> tokens;
    std::vector<int64_t> begins;
    core::data::RawDocument document;
    while (static_cast<int64_t>(tokens.size()) < most_tokens && source.next(document)) {
        std::string problem;
        std::optional<std::string> text = core::data::take_text(document, field, problem);
        if (!text) {
            bad_lines.add(document, problem);
            continue;
        }
        if (cleaner.clean(*text)) continue;
        begins.push_back(static_cast<int64_t>(tokens.size()));
        encoder->encode(*text, tokens);
        if (const auto end = tokenizer.end_of_document()) tokens.push_back(*end);
    }
    const auto count = static_cast<int64_t>(tokens.size());
    REQUIRE(data, count > 0, "{}: holds no text", input);
    return {input, std::make_shared<MemoryRow>(input, std::move(tokens), std::move(begins)), count};
}

MemoryRow::MemoryRow(std::string name, std::vector<int32_t> tokens,
                     std::vector<int64_t> document_begins)
    : name_(std::move(name)), tokens_(std::move(tokens)), begins_(std::move(document_begins)) {
    CHECK(!begins_.empty() && begins_.front() == 0, "a row begins with a document");
}

core::data::BlendSource MemoryRow::describe() const {
    core::io::Xxh3 hash;
    hash.update(std::as_bytes(std::span(tokens_)));
    return {.name = name_,
            .units = static_cast<int64_t>(tokens_.size()),
            .fingerprint = core::io::to_hex(hash.digest128())};
}

void MemoryRow::fill(const core::data::SampleRef& ref, bool document_mask,
                     const core::data::SampleView& view) const {
    const size_t first = static_cast<size_t>(ref.unit), length = view.inputs.size();
    CHECK(first + length < tokens_.size(), "tokens {} to {} of {}", first, first + length,
          tokens_.size());
    std::copy_n(&tokens_[first], length, view.inputs.begin());
    std::copy_n(&tokens_[first + 1], length, view.targets.begin());
    std::iota(view.positions.begin(), view.positions.end(), 0);
    std::fill(view.document_ids.begin(), view.document_ids.end(), 0);
    if (!document_mask) return;
    auto next = std::upper_bound(begins_.begin(), begins_.end(), ref.unit);
    int32_t id = 0;
    for (size_t t = 0, begin = 0; t < length; ++t) {
        if (next != begins_.end() && static_cast<size_t>(*next) == first + t) {
            ++next;
            ++id;
            begin = t;
        }
        view.document_ids[t] = id;
        view.positions[t] = static_cast<int32_t>(t - begin);
    }
}

}  // namespace plinth::launch
