// SPDX-License-Identifier: Apache-2.0
#include "launch/sliding_windows.h"

#include <algorithm>

#include "kernels/runtime/error.h"

namespace plinth::launch {

SlidingWindows::SlidingWindows(int64_t tokens, int64_t length, int64_t stride) : stride_(stride) {
    CHECK(tokens >= 2 && stride >= 1 && stride <= length, "{} tokens, length {}, stride {}", tokens,
          length, stride);
    length_ = std::min(length, tokens - 1);
    last_begin_ = tokens - 1 - length_;
    count_ = 1 + (last_begin_ + stride - 1) / stride;
}

int64_t SlidingWindows::begin_of(int64_t number) const {
    return std::min(number * stride_, last_begin_);
}

Window SlidingWindows::operator[](int64_t number) const {
    CHECK(number >= 0 && number < count_, "window {} of {}", number, count_);
    const int64_t first = begin_of(number);
    return {first, number == 0 ? length_ : first - begin_of(number - 1)};
}

}  // namespace plinth::launch
