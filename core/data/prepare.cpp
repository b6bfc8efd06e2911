// SPDX-License-Identifier: Apache-2.0
#include "core/data/prepare.h"

#include <chrono>
#include <cmath>
#include <memory>
#include <thread>

#include "core/data/document_pipeline.h"
#include "core/data/document_spill.h"
#include "core/data/token_shard.h"
#include "core/data/tokenizer.h"
#include "core/io/run_lock.h"
#include "kernels/runtime/error.h"

namespace plinth::core::data {

namespace {

const char* const tokenizer_folder = "tokenizer";

/// Fixed: they decide the order and the split of every prepared data set.
constexpr uint64_t order_salt = 0x6F72646572000000u;  // "order"
constexpr uint64_t split_salt = 0x73706C6974000000u;  // "split"

/// 64 bits that depend on the document's content, the seed and the purpose.
uint64_t keyed_hash(const io::Hash128& hash, uint64_t seed, uint64_t salt) {
    return io::xxh3_64(std::as_bytes(std::span(&hash, 1)), seed ^ salt);
}

/// Deterministic in the content: equal documents never lie on both sides.
bool is_held_out(const io::Hash128& hash, const PrepareConfig& config) {
    const auto limit = static_cast<uint64_t>(std::ldexp(config.held_out, 53));
    return keyed_hash(hash, config.seed, split_salt) >> 11 < limit;
}

/// Seconds of a phase, and when it is time to tell.
class PhaseClock {
  public:
    double seconds() const {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    }
    bool due() {
        if (seconds() < next_) return false;
        next_ = seconds() + 0.25;
        return true;
    }

  private:
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
    double next_ = 0;
};

void require_free_output(io::FileSystem& files, const std::string& output) {
    if (!files.exists(output)) return;
    REQUIRE(config, files.is_directory(output), "prepare.output: {} is a file", output);
    REQUIRE(config, !files.exists(io::join(output, DatasetManifest::kFileName)),
            "prepare.output: {} holds a finished data set; remove it or choose another folder",
            output);
    REQUIRE(config, files.list(output).empty(),
            "prepare.output: {} is not empty; choose another folder", output);
    files.remove_all(output);
}

/// OUTPUT.partial, locked: the unfinished data set in it is removed unless it was committed.
class PartialFolder {
  public:
    PartialFolder(io::FileSystem& files, std::string output,
                  const std::function<void(const std::string&)>& say)
        : files_(files),
          output_(std::move(output)),
          folder_(output_ + ".partial"),
          lock_(files, folder_,
                {.key = "prepare.output", .loses = "makes no data set", .say = say}) {
        files_.make_directories(folder_);
        while (!lock_.try_acquire())
            std::this_thread::sleep_for(std::chrono::milliseconds(200));
        try {
            clear();
            require_free_output(files_, output_);  // another may have finished meanwhile
            files_.make_directories(path());
        } catch (...) {
            remove();
            throw;
        }
    }
    ~PartialFolder() { remove(); }
    PartialFolder(const PartialFolder&) = delete;
    PartialFolder& operator=(const PartialFolder&) = delete;

    std::string path() const { return io::join(folder_, "data"); }
    void commit() {
        files_.sync_directory(path());
        const std::string loss = lock_.loss();
        REQUIRE(io, loss.empty(), "{}", loss);
        files_.rename(path(), output_);
        const size_t slash = output_.rfind('/');
        files_.sync_directory(slash == std::string::npos ? "." : output_.substr(0, slash + 1));
    }

  private:
    /// What an earlier preparation left, or this one.
    void clear() {
        for (const std::string& name : files_.list(folder_))
            if (name != io::run_lock_name) files_.remove_all(io::join(folder_, name));
    }
    /// Not another's, should this one have lost its lock.
    void remove() noexcept {
        try {
            if (!lock_.is_held() || !lock_.loss().empty()) return;
            clear();
            lock_.release();
            files_.remove(folder_);
        } catch (const Error&) {
            // The error under way says what happened; the next run removes the folder.
        }
    }

    io::FileSystem& files_;
    const std::string output_, folder_;
    io::RunLock lock_;
};

/// Writes one split: shards of bounded size, opened when a document comes.
class SplitWriter {
  public:
    SplitWriter(io::FileSystem& files, std::string folder, std::string split, DType dtype,
                int64_t shard_tokens)
        : files_(files),
          folder_(std::move(folder)),
          split_(std::move(split)),
          dtype_(dtype),
          shard_tokens_(shard_tokens) {}

    void add(std::span<const int32_t> tokens, int64_t bytes) {
        const auto count = static_cast<int64_t>(tokens.size());
        if (writer_ != nullptr && writer_->tokens() + count > shard_tokens_) finish_shard();
        if (writer_ == nullptr) {
            prefix_ = fmt::format("{}-{:05}", split_, entry_.shards.size());
            writer_ =
                std::make_unique<TokenShardWriter>(files_, io::join(folder_, prefix_), dtype_);
        }
        writer_->add_document(tokens);
        bytes_ += bytes;
    }

    SplitEntry finish() {
        if (writer_ != nullptr) finish_shard();
        return std::move(entry_);
    }

  private:
    void finish_shard() {
        ShardEntry shard = writer_->finish();
        shard.prefix = prefix_;
        shard.bytes = bytes_;
        entry_.shards.push_back(std::move(shard));
        writer_.reset();
        bytes_ = 0;
    }

    io::FileSystem& files_;
    std::string folder_, split_;
    DType dtype_;
    int64_t shard_tokens_;
    std::string prefix_;
    std::unique_ptr<TokenShardWriter> writer_;
    int64_t bytes_ = 0;
    SplitEntry entry_;
};

std::string without_trailing_slashes(std::string path) {
    while (path.size() > 1 && path.ends_with('/'))
        path.pop_back();
    return path;
}

/// One preparation: its parts and the two phases.
class Preparation {
  public:
    Preparation(const PrepareConfig& config, io::FileSystem& files, const std::string& folder,
                const std::function<void(const PrepareProgress&)>& progress)
        : config_(config),
          files_(files),
          folder_(folder),
          progress_(progress),
          tokenizer_(load_tokenizer(files, config.tokenizer)),
          source_(files, config.source) {}

    PrepareReport run() {
        const std::string spill_folder = io::join(folder_, "spill");
        files_.make_directories(spill_folder);
        DocumentSpill spill(files_, {.folder = spill_folder,
                                     .memory = config_.memory / 2,
                                     .expected_bytes = expected_spill_bytes(),
                                     .wide_tokens = tokenizer_->vocab_size() > 65536,
                                     .drop_duplicates = config_.deduplicate});
        read(spill);
        write(spill);
        files_.remove_all(spill_folder);
        finish_manifest();
        report_.spilled_bytes = spill.spilled_bytes();
        report_.peak_spill_memory = spill.peak_memory();
        report_.seconds = clock_.seconds();
        report_.skipped = source_.skipped_text();
        return std::move(report_);
    }

  private:
    int64_t expected_spill_bytes() const {
        // Plain text: a token of two to four bytes for every two to four bytes of text, more for
        // the byte tokenizer. Compressed text is three to four times longer than its file.
        return 4 * static_cast<int64_t>(source_.total_bytes());
    }

    void tell(const char* phase, PhaseClock& clock, uint64_t done, uint64_t total, bool last) {
        if (!progress_ || !(clock.due() || last)) return;
        progress_({phase, done, total, documents_, tokens_, clock.seconds()});
    }

    void read(DocumentSpill& spill) {
        const Cleaner cleaner(config_.cleaning, config_.filters);
        const auto cores = static_cast<int>(std::thread::hardware_concurrency());
        DocumentPipeline pipeline(
            source_, cleaner, *tokenizer_,
            {.field = config_.source.field,
             .memory = config_.memory / 2,
             .threads = config_.threads > 0 ? config_.threads : std::max(cores, 1)});
        const std::optional<int32_t> end = tokenizer_->end_of_document();
        BadLines bad_lines(config_.source.max_bad_lines, config_.source.keys.max_bad_lines);
        PhaseClock clock;
        pipeline.run(
            [&](const RawDocument& raw, PreparedDocument& document) {
                const auto sequence = static_cast<uint64_t>(report_.documents_read++);
                if (!document.problem.empty()) bad_lines.add(raw, document.problem);
                if (!document.dropped.empty()) {
                    ++report_.manifest.dropped[document.dropped];
                    return;
                }
                if (end) document.tokens.push_back(*end);
                ++documents_;
                tokens_ += static_cast<int64_t>(document.tokens.size());
                spill.add({.key = keyed_hash(document.hash, config_.seed, order_salt),
                           .hash = document.hash,
                           .sequence = sequence,
                           .bytes = document.bytes},
                          document.tokens);
            },
            [&](uint64_t bytes) { tell("reading", clock, bytes, source_.total_bytes(), false); });
        bad_lines.require_minority(report_.documents_read, config_.source.keys.field);
        report_.bad_lines = bad_lines.text();
        report_.binary = source_.binary_text();
        if (source_.binary_files() > 0)
            report_.manifest.dropped[dropped::binary] = source_.binary_files();
        report_.input_bytes = static_cast<int64_t>(source_.total_bytes());
        tell("reading", clock, source_.total_bytes(), source_.total_bytes(), true);
    }

    void write(DocumentSpill& spill) {
        const DType dtype = token_dtype(tokenizer_->vocab_size());
        SplitWriter train(files_, folder_, "train", dtype, config_.shard_tokens);
        SplitWriter held_out(files_, folder_, "heldout", dtype, config_.shard_tokens);
        const auto total = static_cast<uint64_t>(tokens_) * size_of(dtype);
        documents_ = tokens_ = 0;
        PhaseClock clock;
        spill.drain([&](const DocumentRecord& record, std::span<const int32_t> tokens) {
            (is_held_out(record.hash, config_) ? held_out : train).add(tokens, record.bytes);
            ++documents_;
            tokens_ += record.tokens;
            tell("writing", clock, static_cast<uint64_t>(tokens_) * size_of(dtype), total, false);
        });
        tell("writing", clock, total, total, true);
        if (spill.duplicates() > 0) {
            report_.manifest.dropped[dropped::duplicate] = spill.duplicates();
        }
        add_split("train", train.finish());
        add_split("heldout", held_out.finish());
        std::vector<std::string> dropped_documents;
        for (const auto& [reason, count] : report_.manifest.dropped)
            dropped_documents.push_back(fmt::format("{} {}", count, reason));
        REQUIRE(data, report_.manifest.splits.contains("train"),
                "prepare.inputs: none of {} documents is left for training (dropped: {}; held out: "
                "{})",
                report_.documents_read,
                dropped_documents.empty() ? "none"
                                          : fmt::format("{}", fmt::join(dropped_documents, ", ")),
                documents_);
    }

    void add_split(const char* name, SplitEntry entry) {
        if (!entry.shards.empty()) report_.manifest.splits[name] = std::move(entry);
    }

    void finish_manifest() {
        save_tokenizer(files_, *tokenizer_, io::join(folder_, tokenizer_folder));
        const std::string output = without_trailing_slashes(config_.output);
        DatasetManifest& manifest = report_.manifest;
        manifest.source =
            config_.name.empty() ? output.substr(output.rfind('/') + 1) : config_.name;
        manifest.tokenizer = tokenizer_folder;
        manifest.tokenizer_hash = tokenizer_->content_hash();
        manifest.vocab_size = tokenizer_->vocab_size();
        manifest.eod_id = tokenizer_->end_of_document().value_or(-1);
        manifest.dtype = name_of(token_dtype(tokenizer_->vocab_size()));
        manifest.save(files_, folder_);
    }

    const PrepareConfig& config_;
    io::FileSystem& files_;
    std::string folder_;
    const std::function<void(const PrepareProgress&)>& progress_;
    std::unique_ptr<Tokenizer> tokenizer_;
    TextSource source_;
    PhaseClock clock_;
    int64_t documents_ = 0;  ///< of the phase
    int64_t tokens_ = 0;
    PrepareReport report_;
};

}  // namespace

void PrepareConfig::validate() const {
    source.validate();
    cleaning.validate();
    REQUIRE(config, !without_trailing_slashes(output).empty() && output != "/",
            "prepare.output: name the folder of the data set");
    REQUIRE(config, held_out >= 0 && held_out < 1, "prepare.held_out: must be in [0, 1), got {}",
            held_out);
    REQUIRE(config, shard_tokens > 0, "prepare.shard_tokens: must be positive, got {}",
            shard_tokens);
    REQUIRE(config, memory >= int64_t{1} << 20,
            "prepare.memory: must be at least 1 MiB, got {} bytes", memory);
    REQUIRE(config, threads >= 0 && threads <= 1024, "prepare.threads: must be 0 to 1024, got {}",
            threads);
}

PrepareReport prepare(const PrepareConfig& config, io::FileSystem& files,
                      const std::function<void(const PrepareProgress&)>& progress,
                      const std::function<void(const std::string&)>& say) {
    config.validate();
    const std::string output = without_trailing_slashes(config.output);
    require_free_output(files, output);
    PartialFolder partial(files, output, say);
    PrepareReport report = Preparation(config, files, partial.path(), progress).run();
    partial.commit();
    return report;
}

}  // namespace plinth::core::data
