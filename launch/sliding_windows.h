// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace plinth::launch {

/// One window of a row of tokens: inputs [first, first + length), and the target after each; only
/// the last `scored` targets count.
struct Window {
    int64_t first = 0;
    int64_t scored = 0;
};

/// Cuts a row of N tokens so that each of its N - 1 targets is scored exactly once. Windows begin
/// `stride` tokens apart; the first scores all its targets, each later one only those that no
/// window before it held: its last `stride`, which so have length - stride tokens of context or
/// more. The last window is moved back to end with the row and scores what is left. A row shorter
/// than a window is one window.
class SlidingWindows {
  public:
    /// `tokens` at least 2, 1 <= stride <= length.
    SlidingWindows(int64_t tokens, int64_t length, int64_t stride);

    int64_t length() const { return length_; }
    int64_t count() const { return count_; }
    Window operator[](int64_t number) const;

  private:
    int64_t begin_of(int64_t number) const;

    int64_t length_ = 0;
    int64_t stride_;
    int64_t last_begin_ = 0;
    int64_t count_ = 0;
};

}  // namespace plinth::launch
