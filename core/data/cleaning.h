// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace plinth::core::data {

/// What happens to a document that is not well-formed UTF-8.
enum class InvalidUtf8 {
    replace,  ///< each ill-formed sequence becomes U+FFFD
    drop,     ///< the document is left out
};

enum class NormalForm { none, nfc };

struct CleaningConfig {
    InvalidUtf8 invalid_utf8 = InvalidUtf8::replace;
    NormalForm normal_form = NormalForm::nfc;
    int64_t min_characters = 1;  ///< code points after cleaning; shorter documents are dropped

    /// Errors are of kind config.
    void validate() const;
};

/// A judgement on cleaned documents: language, quality and the like. Thread safe.
class DocumentFilter {
  public:
    virtual ~DocumentFilter() = default;
    /// One word that the report counts dropped documents under.
    virtual std::string reason() const = 0;
    virtual bool keep(std::string_view text) const = 0;
};

using DocumentFilters = std::vector<std::shared_ptr<const DocumentFilter>>;

/// Why a document was left out, as counted in a data set's manifest. Filters add their own.
namespace dropped {
inline constexpr const char* invalid_utf8 = "invalid_utf8";
inline constexpr const char* blank = "blank";
inline constexpr const char* too_short = "too_short";
inline constexpr const char* duplicate = "duplicate";
inline constexpr const char* bad_line = "bad_line";
inline constexpr const char* binary = "binary";  ///< whole files
}  // namespace dropped

/// Makes a document's text canonical, in this order: well-formed UTF-8; no byte-order mark at the
/// start; CRLF, CR and U+0085 become line feeds; all other controls (Cc) but tab and line feed are
/// removed; normal form. Then it decides whether the document stays. Immutable and thread safe.
class Cleaner {
  public:
    explicit Cleaner(CleaningConfig config, DocumentFilters filters = {});

    /// Cleans `text` in place; returns the reason if the document must be dropped.
    std::optional<std::string> clean(std::string& text) const;

  private:
    CleaningConfig config_;
    DocumentFilters filters_;
};

}  // namespace plinth::core::data
