// SPDX-License-Identifier: Apache-2.0
#include "core/data/text_source.h"

#include "core/data/input_files.h"
#include "core/io/json.h"
#include "kernels/runtime/error.h"

namespace plinth::core::data {

void TextSourceConfig::validate() const {
    REQUIRE(config, !inputs.empty(), "inputs: name at least one file, folder or pattern");
    REQUIRE(config, !field.empty(), "field: must not be empty");
    REQUIRE(config, !document_separator.empty(),
            "document_separator: must be file, blank_line or a text between documents");
    REQUIRE(config, max_bad_lines >= 0, "max_bad_lines: must not be negative, got {}",
            max_bad_lines);
    REQUIRE(config, max_document_bytes > 0, "max_document_bytes: must be positive, got {}",
            max_document_bytes);
}

std::optional<std::string> take_text(RawDocument& document, const std::string& field,
                                     std::string& problem) {
    if (!document.is_json) return std::move(document.bytes);
    try {
        const io::Json json = io::Json::parse(document.bytes, "line");
        const io::Json* text = json.find(field);
        if (text != nullptr && text->is_string()) return text->as_string();
        problem = text != nullptr
                      ? fmt::format("\"{}\" is not a string but {}", field, text->type_name())
                  : json.is_object() ? fmt::format("no member \"{}\"", field)
                                     : fmt::format("not an object but {}", json.type_name());
    } catch (const Error& error) {
        if (error.kind() != ErrorKind::data) throw;
        problem = error.what();
    }
    return std::nullopt;
}

void BadLines::add(const RawDocument& document, const std::string& problem) {
    ++count_;
    REQUIRE(data, count_ <= limit_,
            "{}:{}: {} ({} bad lines, {} may be skipped: raise max_bad_lines if that is right)",
            *document.path, document.line, problem, count_, limit_);
}

/// The documents of one open file.
class TextSource::Documents {
  public:
    virtual ~Documents() = default;
    virtual bool next(RawDocument& document) = 0;
    virtual uint64_t position() const = 0;
};

namespace {

void check_length(size_t bytes, int64_t limit, const std::string& path) {
    REQUIRE(data, bytes <= static_cast<uint64_t>(limit),
            "{}: a document of more than {} bytes; set document_separator to cut the file, or "
            "raise max_document_bytes",
            path, limit);
}

}  // namespace

/// JSONL: a document a line; empty lines are nothing.
class TextSource::Lines : public Documents {
  public:
    explicit Lines(std::unique_ptr<io::ReadableFile> file) : lines_(std::move(file)) {}

    bool next(RawDocument& document) override {
        std::string_view line;
        do {
            if (!lines_.next(line)) return false;
        } while (line.find_first_not_of(" \t") == std::string_view::npos);
        document.bytes.assign(line);
        document.line = lines_.line_number();
        document.is_json = true;
        return true;
    }
    uint64_t position() const override { return lines_.position(); }

  private:
    io::LineReader lines_;
};

/// Plain text cut at empty lines.
class TextSource::Paragraphs : public Documents {
  public:
    Paragraphs(std::unique_ptr<io::ReadableFile> file, int64_t limit)
        : path_(file->path()), limit_(limit), lines_(std::move(file)) {}

    bool next(RawDocument& document) override {
        document.bytes.clear();
        document.is_json = false;
        std::string_view line;
        while (lines_.next(line)) {
            if (line.empty()) {
                if (document.bytes.empty()) continue;
                return true;
            }
            if (document.bytes.empty()) document.line = lines_.line_number();
            document.bytes.append(line).push_back('\n');
            check_length(document.bytes.size(), limit_, path_);
        }
        return !document.bytes.empty();
    }
    uint64_t position() const override { return lines_.position(); }

  private:
    std::string path_;
    int64_t limit_;
    io::LineReader lines_;
};

/// Plain text cut at a separator, which belongs to no document; an empty one: never.
class TextSource::Separated : public Documents {
  public:
    Separated(std::unique_ptr<io::ReadableFile> file, std::string separator, int64_t limit)
        : path_(file->path()),
          separator_(std::move(separator)),
          limit_(limit),
          bytes_(io::open_bytes(std::move(file))) {}

    bool next(RawDocument& document) override {
        document.is_json = false;
        document.line = 0;
        while (true) {
            const size_t end =
                separator_.empty() ? std::string::npos : buffer_.find(separator_, searched_);
            if (end != std::string::npos) {
                emit(document, end, end + separator_.size());
                return true;
            }
            if (at_end_) break;
            refill();
        }
        if (begin_ == buffer_.size()) return false;
        emit(document, buffer_.size(), buffer_.size());
        return true;
    }
    uint64_t position() const override { return bytes_->position(); }

  private:
    static constexpr size_t read_size = size_t{1} << 18;

    void emit(RawDocument& document, size_t end, size_t next_begin) {
        document.bytes.assign(buffer_, begin_, end - begin_);
        begin_ = searched_ = next_begin;
    }

    /// Drops the documents already given out and reads on. A separator may lie across the seam.
    void refill() {
        buffer_.erase(0, begin_);
        begin_ = 0;
        check_length(buffer_.size(), limit_, path_);
        const size_t kept = buffer_.size();
        searched_ =
            kept >= separator_.size() ? kept + 1 - std::max<size_t>(separator_.size(), 1) : 0;
        buffer_.resize(kept + read_size);
        const size_t got = bytes_->read(std::as_writable_bytes(std::span(buffer_)).subspan(kept));
        buffer_.resize(kept + got);
        at_end_ = got == 0;
    }

    std::string path_;
    std::string separator_;
    int64_t limit_;
    std::unique_ptr<io::ByteReader> bytes_;
    std::string buffer_;
    size_t begin_ = 0;     ///< of the next document
    size_t searched_ = 0;  ///< no separator begins in [begin_, searched_)
    bool at_end_ = false;
};

TextSource::TextSource(io::FileSystem& files, TextSourceConfig config)
    : files_(files), config_(std::move(config)) {
    config_.validate();
    paths_ = find_input_files(files_, config_.inputs);
    for (const std::string& path : paths_)
        total_bytes_ += files_.open_read(path)->size();
}

TextSource::~TextSource() = default;

std::unique_ptr<TextSource::Documents> TextSource::open(const std::string& path) {
    const auto is_jsonl = [](std::string_view name) {
        for (const std::string_view packed : {".gz", ".zst", ".zstd"}) {
            if (name.ends_with(packed)) name.remove_suffix(packed.size());
        }
        return name.ends_with(".jsonl") || name.ends_with(".ndjson") || name.ends_with(".json");
    };
    auto file = files_.open_read(path);
    if (config_.format == TextFormat::jsonl ||
        (config_.format == TextFormat::automatic && is_jsonl(path))) {
        return std::make_unique<Lines>(std::move(file));
    }
    if (config_.document_separator == "blank_line") {
        return std::make_unique<Paragraphs>(std::move(file), config_.max_document_bytes);
    }
    const bool whole = config_.document_separator == "file";
    return std::make_unique<Separated>(std::move(file), whole ? "" : config_.document_separator,
                                       config_.max_document_bytes);
}

bool TextSource::next(RawDocument& document) {
    while (true) {
        if (documents_ == nullptr) {
            if (next_path_ == paths_.size()) return false;
            path_ = std::make_shared<const std::string>(paths_[next_path_++]);
            documents_ = open(*path_);
        }
        if (documents_->next(document)) {
            document.path = path_;
            return true;
        }
        finished_bytes_ += documents_->position();
        documents_.reset();
    }
}

uint64_t TextSource::bytes_read() const {
    return finished_bytes_ + (documents_ != nullptr ? documents_->position() : 0);
}

}  // namespace plinth::core::data
