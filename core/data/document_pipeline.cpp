// SPDX-License-Identifier: Apache-2.0
#include "core/data/document_pipeline.h"

#include <algorithm>
#include <future>

namespace plinth::core::data {

namespace {

// A byte under way costs up to: itself in two rounds, its cleaned copy, and four bytes of token.
constexpr int64_t cost_per_raw_byte = 8;
constexpr int64_t batches_per_round = 32;
constexpr int64_t least_batch = int64_t{8} << 10;
constexpr int64_t most_batch = int64_t{1} << 20;

}  // namespace

DocumentPipeline::DocumentPipeline(TextSource& source, const Cleaner& cleaner,
                                   const Tokenizer& tokenizer, Config config)
    : source_(source),
      cleaner_(cleaner),
      tokenizer_(tokenizer),
      config_(std::move(config)),
      pool_(config_.threads) {}

void DocumentPipeline::run(const Take& take, const std::function<void(uint64_t)>& pause) {
    Round round = read_round();
    while (!round.batches.empty()) {
        // Waits for the reader when it goes out of scope, also if this thread throws.
        std::future<Round> next = std::async(std::launch::async, [this] { return read_round(); });
        pool_.run(static_cast<int64_t>(round.batches.size()),
                  [&](int64_t i) { process(round.batches[static_cast<size_t>(i)]); });
        for (Batch& batch : round.batches) {
            for (size_t i = 0; i < batch.raw.size(); ++i)
                take(batch.raw[i], batch.prepared[i]);
        }
        pause(round.bytes_read);
        round = next.get();
    }
}

DocumentPipeline::Round DocumentPipeline::read_round() {
    const int64_t batch_bytes =
        std::clamp(config_.memory / cost_per_raw_byte / batches_per_round, least_batch, most_batch);
    Round round;
    RawDocument document;
    bool more = true;
    int64_t left = batch_bytes * batches_per_round;
    while (more && left > 0) {
        Batch batch;
        int64_t bytes = 0;
        while (bytes < batch_bytes && (more = source_.next(document))) {
            bytes += static_cast<int64_t>(document.bytes.size());
            batch.raw.push_back(std::move(document));
            document = {};
        }
        left -= bytes;
        if (!batch.raw.empty()) round.batches.push_back(std::move(batch));
    }
    round.bytes_read = source_.bytes_read();
    return round;
}

void DocumentPipeline::process(Batch& batch) {
    std::unique_ptr<Encoder> encoder = borrow_encoder();
    batch.prepared.resize(batch.raw.size());
    for (size_t i = 0; i < batch.raw.size(); ++i)
        process(batch.raw[i], batch.prepared[i], *encoder);
    give_back(std::move(encoder));
}

void DocumentPipeline::process(RawDocument& raw, PreparedDocument& prepared, Encoder& encoder) {
    std::optional<std::string> text = take_text(raw, config_.field, prepared.problem);
    raw.bytes = {};
    if (!text) {
        prepared.dropped = dropped::bad_line;
        return;
    }
    if (std::optional<std::string> reason = cleaner_.clean(*text)) {
        prepared.dropped = std::move(*reason);
        return;
    }
    prepared.hash = io::xxh3_128(*text);
    prepared.bytes = static_cast<int64_t>(text->size());
    encoder.encode(*text, prepared.tokens);
}

std::unique_ptr<Encoder> DocumentPipeline::borrow_encoder() {
    {
        const std::lock_guard lock(mutex_);
        if (!idle_encoders_.empty()) {
            auto encoder = std::move(idle_encoders_.back());
            idle_encoders_.pop_back();
            return encoder;
        }
    }
    return tokenizer_.make_encoder(SpecialText::plain);
}

void DocumentPipeline::give_back(std::unique_ptr<Encoder> encoder) {
    const std::lock_guard lock(mutex_);
    idle_encoders_.push_back(std::move(encoder));
}

}  // namespace plinth::core::data
