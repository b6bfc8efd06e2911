// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

namespace plinth {

class Stream;

/// Work that was given to a stream once, kept to be given to it again: the same kernels and copies
/// with the same arguments, at the same addresses. What the host computed or chose meanwhile stays
/// what it was.
class Graph {
  public:
    virtual ~Graph() = default;
    /// Gives all of it to the stream that it was captured from.
    virtual void launch() = 0;
    /// Kernels and copies.
    virtual size_t size() const = 0;
};

/// Of a CPU stream: the calls one after the other.
class HostGraph final : public Graph {
  public:
    /// `stream` must outlive it.
    explicit HostGraph(Stream& stream) : stream_(stream) {}
    void keep(std::function<void(Stream&)> work) { work_.push_back(std::move(work)); }
    void launch() override {
        for (const auto& each : work_)
            each(stream_);
    }
    size_t size() const override { return work_.size(); }

  private:
    Stream& stream_;
    std::vector<std::function<void(Stream&)>> work_;
};

}  // namespace plinth
