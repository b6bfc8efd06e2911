// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace plinth::core {

/// What code below `parallel/` may ask of the other ranks. Implemented by `parallel/comm`;
/// `SelfRanks` serves one rank. Every call is collective over the same group and blocks. Errors of
/// a peer surface as ErrorKind::ranks.
class Ranks {
  public:
    virtual ~Ranks() = default;
    virtual int rank() const = 0;
    virtual int size() const = 0;
    virtual void barrier() = 0;
    /// The root's bytes on every rank.
    virtual std::string broadcast(const std::string& bytes, int root) = 0;
    /// Every rank's bytes in rank order, on `root` (elsewhere empty).
    virtual std::vector<std::string> gather(const std::string& bytes, int root) = 0;
    /// Sum of exact integers over the ranks, element by element, in place on every rank.
    virtual void sum(std::span<int64_t> values) = 0;
    /// The ranks that give the same `color` (0 or more), in the order of their ranks here. These
    /// must outlive them.
    virtual std::unique_ptr<Ranks> split(int color) = 0;
    /// True on every rank if `mine` was true on all of them.
    bool all_agree(bool mine) {
        int64_t refused = mine ? 0 : 1;
        sum({&refused, 1});
        return refused == 0;
    }
};

/// A world of one.
class SelfRanks final : public Ranks {
  public:
    int rank() const override { return 0; }
    int size() const override { return 1; }
    void barrier() override {}
    std::string broadcast(const std::string& bytes, int) override { return bytes; }
    std::vector<std::string> gather(const std::string& bytes, int) override { return {bytes}; }
    void sum(std::span<int64_t>) override {}
    std::unique_ptr<Ranks> split(int) override { return std::make_unique<SelfRanks>(); }
};

}  // namespace plinth::core
