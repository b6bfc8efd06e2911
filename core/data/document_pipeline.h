// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/data/cleaning.h"
#include "core/data/text_source.h"
#include "core/data/tokenizer.h"
#include "core/io/hash.h"
#include "kernels/runtime/thread_pool.h"

namespace plinth::core::data {

/// A document after cleaning and tokenisation, or why there is none.
struct PreparedDocument {
    std::string dropped;          ///< reason; empty: kept
    std::string problem;          ///< what is wrong with a bad line
    io::Hash128 hash;             ///< of the cleaned text
    int64_t bytes = 0;            ///< of the cleaned text
    std::vector<int32_t> tokens;  ///< without an end token
};

/// Reads documents on one thread while others parse, clean and tokenise the previous ones, and
/// gives them out in their order. The work is cut by bytes, never by the number of threads.
class DocumentPipeline {
  public:
    struct Config {
        std::string field;
        int64_t memory;  ///< bytes of raw text and tokens under way
        int threads;
    };

    DocumentPipeline(TextSource& source, const Cleaner& cleaner, const Tokenizer& tokenizer,
                     Config config);

    using Take = std::function<void(const RawDocument&, PreparedDocument&)>;
    /// Calls `take` on this thread for every document, and `pause` (bytes of the source read so
    /// far) from time to time.
    void run(const Take& take, const std::function<void(uint64_t)>& pause);

  private:
    struct Batch {
        std::vector<RawDocument> raw;
        std::vector<PreparedDocument> prepared;
    };
    struct Round {
        std::vector<Batch> batches;
        uint64_t bytes_read = 0;
    };

    Round read_round();
    void process(Batch& batch);
    void process(RawDocument& raw, PreparedDocument& prepared, Encoder& encoder);
    std::unique_ptr<Encoder> borrow_encoder();
    void give_back(std::unique_ptr<Encoder> encoder);

    TextSource& source_;
    const Cleaner& cleaner_;
    const Tokenizer& tokenizer_;
    Config config_;
    ThreadPool pool_;
    std::mutex mutex_;
    std::vector<std::unique_ptr<Encoder>> idle_encoders_;
};

}  // namespace plinth::core::data
