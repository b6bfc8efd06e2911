// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/data/input_files.h"
#include "core/io/compressed.h"
#include "core/io/file.h"

namespace plinth::core::data {

enum class TextFormat {
    automatic,  ///< .jsonl, .ndjson and .json (before .gz or .zst) are JSONL, the rest is text
    text,
    jsonl,
};

/// What the configuration calls the values below, for messages: an empty one has no key.
struct TextSourceKeys {
    std::string inputs = "inputs";
    std::string field, document_separator, max_bad_lines, max_document_bytes;

    /// "prepare.inputs" and so on.
    static TextSourceKeys of_section(const std::string& section);
};

struct TextSourceConfig {
    std::vector<std::string> inputs;  ///< files, folders, patterns: see find_input_files
    TextFormat format = TextFormat::automatic;
    std::string field = "text";  ///< the member of a JSON line that holds the document
    /// Where a plain text ends one document and begins the next: "file" (never), "blank_line" (one
    /// or more empty lines) or any other text, such as "<|endoftext|>".
    std::string document_separator = "file";
    int64_t max_bad_lines = 100;                    ///< JSON lines that may be skipped
    int64_t max_document_bytes = int64_t{1} << 30;  ///< a longer one is an error
    /// Whether links to nothing, pipes and the like in folders are skipped, and binary files that
    /// no input names itself; else they are errors.
    bool skip_odd_files = false;
    TextSourceKeys keys;

    /// Errors are of kind config.
    void validate() const;
};

/// A document as it lies in its file. Taking the text out is separate, so that it can be done on
/// another thread.
struct RawDocument {
    std::string bytes;
    std::shared_ptr<const std::string> path;
    uint64_t line = 0;  ///< where it begins, from 1
    bool is_json = false;
};

/// The text of a document (moved out of it), or none and `problem` says what is wrong with the JSON
/// line.
std::optional<std::string> take_text(RawDocument& document, const std::string& field,
                                     std::string& problem);

/// Counts JSON lines that were skipped.
class BadLines {
  public:
    /// `key`: of the limit, if the configuration has one.
    explicit BadLines(int64_t limit, std::string key = "") : limit_(limit), key_(std::move(key)) {}
    /// The line over the limit is an error of kind data that names file, line and key.
    void add(const RawDocument& document, const std::string& problem);
    int64_t count() const { return count_; }
    /// Of all documents read: more bad lines than good ones are an error of kind data, whatever the
    /// limit: then the text is somewhere else in them. `field_key`: what names its member.
    void require_minority(int64_t documents, const std::string& field_key) const;
    /// "12 JSON lines were skipped, the first is in.jsonl:3: no member "text""; empty for none.
    std::string text() const;

  private:
    int64_t limit_;
    std::string key_;
    int64_t count_ = 0;
    std::string first_;  ///< file, line and problem
};

/// The documents of all input files, in order. Compression is detected by content; a binary file is
/// left out or an error of kind data that names it. Memory: one
/// document and fixed buffers; a document that is too long is an error of kind data that names file
/// and line, also as one line of a JSONL file, and is not read to its end.
class TextSource {
  public:
    TextSource(io::FileSystem& files, TextSourceConfig config);
    ~TextSource();

    /// False at the end.
    bool next(RawDocument& document);

    const std::vector<std::string>& paths() const { return inputs_.paths; }
    /// One line about names that led to no file; empty if there were none.
    std::string skipped_text() const { return inputs_.skipped_text(); }
    /// Files so far that were left out because they are no text (why_binary), and one line about
    /// them; empty if there were none.
    int64_t binary_files() const { return binary_files_; }
    std::string binary_text() const;
    /// Sizes of the files on disk, and how much of that has been read.
    uint64_t total_bytes() const { return total_bytes_; }
    uint64_t bytes_read() const;

  private:
    class Documents;
    class Lines;
    class Paragraphs;
    class Separated;
    std::unique_ptr<Documents> open(std::unique_ptr<io::ReadableFile> file) const;
    bool leaves_out(const io::ReadableFile& file);

    io::FileSystem& files_;
    TextSourceConfig config_;
    InputFiles inputs_;
    uint64_t total_bytes_ = 0;
    uint64_t finished_bytes_ = 0;  ///< of the files before the open one
    size_t next_path_ = 0;
    int64_t binary_files_ = 0;
    std::string first_binary_;  ///< file and reason
    std::unique_ptr<Documents> documents_;
    std::shared_ptr<const std::string> path_;
};

}  // namespace plinth::core::data
