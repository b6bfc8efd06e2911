// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "kernels/runtime/function_ref.h"

namespace plinth::core::data {

/// GPT-2's pre-tokeniser: contractions, then letters, digits and other characters, each with at
/// most one leading space, then white space, of which the last character is left to the next word.
/// White space is written out as Unicode's White_Space because PCRE2's own \s also holds U+180E.
extern const char* const gpt2_pattern;

/// Cuts text into the pieces that byte-pair encoding never merges across. The compiled expression
/// is shared and immutable; each thread works through its own Splitter.
class PreTokenizer {
  public:
    /// `pattern` is a PCRE2 expression, compiled with UTF and Unicode classes. An expression that
    /// does not compile is an error of kind data that gives the place.
    explicit PreTokenizer(const std::string& pattern);
    ~PreTokenizer();
    PreTokenizer(PreTokenizer&&) noexcept;
    PreTokenizer& operator=(PreTokenizer&&) noexcept;

    /// One thread's scratch memory. Must not outlive its PreTokenizer.
    class Splitter {
      public:
        explicit Splitter(const PreTokenizer& owner);
        ~Splitter();
        Splitter(Splitter&&) noexcept;
        Splitter& operator=(Splitter&&) noexcept;

        /// Calls `take` for each piece of `text`, in order; joined they are the text. What no
        /// alternative matches is a piece of its own. Bytes that are not UTF-8 cannot be matched:
        /// each ill-formed run is one piece, and the text on both sides is cut as if it stood
        /// alone.
        void split(std::string_view text, FunctionRef<void(std::string_view)> take);

      private:
        void split_valid(std::string_view text, FunctionRef<void(std::string_view)> take);

        const PreTokenizer* owner_;
        struct Scratch;
        std::unique_ptr<Scratch> scratch_;
    };

  private:
    struct Compiled;
    std::unique_ptr<Compiled> compiled_;
};

}  // namespace plinth::core::data
