// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "kernels/runtime/error.h"

namespace plinth::test {

/// Where the buffers of a test lie: what a test writes and reads itself, it does through this.
class BufferMemory {
  public:
    virtual ~BufferMemory() = default;
    virtual std::byte* allocate(size_t bytes) = 0;
    virtual void write(std::byte* to, std::span<const std::byte> from) = 0;
    virtual void read(std::span<std::byte> to, const std::byte* from) = 0;
    /// The buffers so far are not used again.
    virtual void clear() = 0;
};

class HostBuffers final : public BufferMemory {
  public:
    std::byte* allocate(size_t bytes) override {
        return blocks_.emplace_back(std::make_unique<std::byte[]>(std::max<size_t>(bytes, 1)))
            .get();
    }
    void write(std::byte* to, std::span<const std::byte> from) override {
        std::copy(from.begin(), from.end(), to);
    }
    void read(std::span<std::byte> to, const std::byte* from) override {
        std::copy(from, from + to.size(), to.begin());
    }
    void clear() override { blocks_.clear(); }

  private:
    std::vector<std::unique_ptr<std::byte[]>> blocks_;
};

/// One buffer of a call.
template <typename T>
class Buffer {
  public:
    Buffer(BufferMemory& memory, size_t size)
        : memory_(&memory),
          data_(reinterpret_cast<T*>(memory.allocate(size * sizeof(T)))),
          size_(size) {}
    Buffer(BufferMemory& memory, const std::vector<T>& values) : Buffer(memory, values.size()) {
        *this = values;
    }
    Buffer& operator=(const std::vector<T>& values) {
        CHECK(values.size() == size_, "{} values for {}", values.size(), size_);
        memory_->write(reinterpret_cast<std::byte*>(data_), std::as_bytes(std::span(values)));
        return *this;
    }
    std::span<T> span() const { return {data_, size_}; }
    std::vector<T> values() const {
        std::vector<T> result(size_);
        memory_->read(std::as_writable_bytes(std::span(result)),
                      reinterpret_cast<const std::byte*>(data_));
        return result;
    }

  private:
    BufferMemory* memory_;
    T* data_;
    size_t size_;
};

}  // namespace plinth::test
