// SPDX-License-Identifier: Apache-2.0
#include "core/data/text_source.h"

#include <algorithm>

#include "core/data/binary_file.h"
#include "core/io/json.h"
#include "kernels/runtime/error.h"

namespace plinth::core::data {

TextSourceKeys TextSourceKeys::of_section(const std::string& section) {
    return {.inputs = section + ".inputs",
            .field = section + ".field",
            .document_separator = section + ".document_separator",
            .max_bad_lines = section + ".max_bad_lines",
            .max_document_bytes = section + ".max_document_bytes"};
}

void TextSourceConfig::validate() const {
    REQUIRE(config, !inputs.empty(), "{}: name at least one file, folder or pattern", keys.inputs);
    REQUIRE(config, !field.empty(), "{}: the field of a JSON line must have a name", keys.inputs);
    REQUIRE(config, !document_separator.empty(),
            "{}: must be file, blank_line or a text between documents", keys.document_separator);
    REQUIRE(config, max_bad_lines >= 0, "{}: must not be negative, got {}", keys.max_bad_lines,
            max_bad_lines);
    REQUIRE(config, max_document_bytes > 0, "{}: must be positive, got {}", keys.max_document_bytes,
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
    if (++count_ == 1) first_ = fmt::format("{}:{}: {}", *document.path, document.line, problem);
    REQUIRE(data, count_ <= limit_, "{}:{}: {} ({} bad lines, {} may be skipped{})", *document.path,
            document.line, problem, count_, limit_,
            key_.empty() ? "" : fmt::format(": raise {} if that is right", key_));
}

void BadLines::require_minority(int64_t documents, const std::string& field_key) const {
    REQUIRE(data, 2 * count_ <= documents,
            "{}: {} of {} documents are bad lines; {} names the member that holds the text", first_,
            count_, documents, field_key);
}

std::string BadLines::text() const {
    if (count_ == 0) return "";
    return fmt::format("{} JSON line{} skipped, the first is {}", count_,
                       count_ == 1 ? " was" : "s were", first_);
}

/// The documents of one open file.
class TextSource::Documents {
  public:
    virtual ~Documents() = default;
    virtual bool next(RawDocument& document) = 0;
    virtual uint64_t position() const = 0;
};

namespace {

/// How long a document may be, and what can be done about a longer one.
io::LongestLine longest_of(const TextSourceConfig& config, bool is_json) {
    std::string fix;
    const TextSourceKeys& keys = config.keys;
    if (!is_json && !keys.document_separator.empty())
        fix = fmt::format("set {} to cut the file into documents, or ", keys.document_separator);
    fix += keys.max_document_bytes.empty() ? "cut it into shorter documents"
                                           : fmt::format("raise {}", keys.max_document_bytes);
    return {static_cast<size_t>(config.max_document_bytes), std::move(fix)};
}

void check_length(size_t bytes, const io::LongestLine& longest, const std::string& path,
                  uint64_t line) {
    REQUIRE(data, bytes <= longest.bytes, "{}:{}: a document of more than {} bytes: {}", path, line,
            longest.bytes, longest.fix);
}

}  // namespace

/// JSONL: a document a line; empty lines are nothing.
class TextSource::Lines : public Documents {
  public:
    Lines(std::unique_ptr<io::ReadableFile> file, io::LongestLine longest)
        : lines_(std::move(file), std::move(longest)) {}

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
    Paragraphs(std::unique_ptr<io::ReadableFile> file, const io::LongestLine& longest)
        : path_(file->path()), longest_(longest), lines_(std::move(file), longest) {}

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
            check_length(document.bytes.size(), longest_, path_, document.line);
        }
        return !document.bytes.empty();
    }
    uint64_t position() const override { return lines_.position(); }

  private:
    std::string path_;
    io::LongestLine longest_;
    io::LineReader lines_;
};

/// Plain text cut at a separator, which belongs to no document; an empty one: never.
class TextSource::Separated : public Documents {
  public:
    Separated(std::unique_ptr<io::ReadableFile> file, std::string separator,
              io::LongestLine longest)
        : path_(file->path()),
          separator_(std::move(separator)),
          longest_(std::move(longest)),
          bytes_(io::open_bytes(std::move(file))) {}

    bool next(RawDocument& document) override {
        document.is_json = false;
        document.line = line_;
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
        check_length(end - begin_, longest_, path_, line_);
        document.bytes.assign(buffer_, begin_, end - begin_);
        const auto at = [&](size_t offset) {
            return buffer_.begin() + static_cast<std::ptrdiff_t>(offset);
        };
        line_ += static_cast<uint64_t>(std::count(at(begin_), at(next_begin), '\n'));
        begin_ = searched_ = next_begin;
    }

    /// Drops the documents already given out and reads on. A separator may lie across the seam.
    void refill() {
        buffer_.erase(0, begin_);
        begin_ = 0;
        check_length(buffer_.size(), longest_, path_, line_);
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
    io::LongestLine longest_;
    std::unique_ptr<io::ByteReader> bytes_;
    std::string buffer_;
    uint64_t line_ = 1;    ///< where the next document begins
    size_t begin_ = 0;     ///< the same, in the buffer
    size_t searched_ = 0;  ///< no separator begins in [begin_, searched_)
    bool at_end_ = false;
};

TextSource::TextSource(io::FileSystem& files, TextSourceConfig config)
    : files_(files), config_(std::move(config)) {
    config_.validate();
    const std::string& key = config_.keys.inputs;
    if (config_.skip_odd_files)
        inputs_ = find_input_files(files_, config_.inputs, key);
    else
        inputs_.paths = find_all_input_files(files_, config_.inputs, key);
    for (const std::string& path : paths())
        total_bytes_ += files_.open_read(path)->size();
}

TextSource::~TextSource() = default;

std::unique_ptr<TextSource::Documents> TextSource::open(
    std::unique_ptr<io::ReadableFile> file) const {
    const auto is_jsonl = [](std::string_view name) {
        for (const std::string_view packed : {".gz", ".zst", ".zstd"}) {
            if (name.ends_with(packed)) name.remove_suffix(packed.size());
        }
        return name.ends_with(".jsonl") || name.ends_with(".ndjson") || name.ends_with(".json");
    };
    if (config_.format == TextFormat::jsonl ||
        (config_.format == TextFormat::automatic && is_jsonl(file->path()))) {
        return std::make_unique<Lines>(std::move(file), longest_of(config_, /*is_json=*/true));
    }
    const io::LongestLine longest = longest_of(config_, /*is_json=*/false);
    if (config_.document_separator == "blank_line")
        return std::make_unique<Paragraphs>(std::move(file), longest);
    const bool whole = config_.document_separator == "file";
    return std::make_unique<Separated>(std::move(file), whole ? "" : config_.document_separator,
                                       longest);
}

bool TextSource::leaves_out(const io::ReadableFile& file) {
    const std::string why = why_binary(files_, file);
    if (why.empty()) return false;
    const std::string& path = file.path();
    REQUIRE(data, config_.skip_odd_files && !inputs_.named.contains(path),
            "{}: is no text: {}; leave it out of {}, or convert it to UTF-8", path, why,
            config_.keys.inputs);
    if (binary_files_++ == 0) first_binary_ = fmt::format("{}: {}", path, why);
    return true;
}

std::string TextSource::binary_text() const {
    if (binary_files_ == 0) return "";
    return fmt::format("{} binary file{} left out; the first is {}", binary_files_,
                       binary_files_ == 1 ? " was" : "s were", first_binary_);
}

bool TextSource::next(RawDocument& document) {
    while (true) {
        if (documents_ == nullptr) {
            if (next_path_ == paths().size()) return false;
            path_ = std::make_shared<const std::string>(paths()[next_path_++]);
            auto file = files_.open_read(*path_);
            if (leaves_out(*file)) {
                finished_bytes_ += file->size();
                continue;
            }
            documents_ = open(std::move(file));
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
