// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <barrier>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "core/ranks.h"

namespace plinth::test {

/// N ranks as threads of one process. A rank that throws would leave the others waiting, as a dead
/// process would, so bodies must throw on all ranks or on none.
class ThreadRanks {
  public:
    /// Runs `body` once for each rank, at the same time; rethrows the error of the lowest rank.
    static void run(int size, const std::function<void(core::Ranks&)>& body) {
        Shared shared(size);
        std::vector<std::exception_ptr> errors(static_cast<size_t>(size));
        std::vector<std::thread> threads;
        for (int rank = 0; rank < size; ++rank)
            threads.emplace_back([&, rank] {
                Member member(shared, rank);
                try {
                    body(member);
                } catch (...) {
                    errors[static_cast<size_t>(rank)] = std::current_exception();
                }
            });
        for (std::thread& thread : threads)
            thread.join();
        for (const std::exception_ptr& error : errors)
            if (error) std::rethrow_exception(error);
    }

  private:
    struct Shared {
        explicit Shared(int count)
            : size(count),
              barrier(count),
              bytes(static_cast<size_t>(count)),
              integers(static_cast<size_t>(count)) {}
        const int size;
        std::barrier<> barrier;
        std::vector<std::string> bytes;
        std::vector<std::vector<int64_t>> integers;
        std::map<int, std::shared_ptr<Shared>> parts;  ///< of a split, by color
    };

    class Member final : public core::Ranks {
      public:
        Member(Shared& shared, int rank) : shared_(shared), rank_(rank) {}
        Member(std::shared_ptr<Shared> part, int rank)
            : part_(std::move(part)), shared_(*part_), rank_(rank) {}
        int rank() const override { return rank_; }
        int size() const override { return shared_.size; }
        void barrier() override { shared_.barrier.arrive_and_wait(); }
        std::string broadcast(const std::string& bytes, int root) override {
            if (rank_ == root) shared_.bytes[static_cast<size_t>(root)] = bytes;
            barrier();
            std::string result = shared_.bytes[static_cast<size_t>(root)];
            barrier();
            return result;
        }
        std::vector<std::string> gather(const std::string& bytes, int root) override {
            shared_.bytes[static_cast<size_t>(rank_)] = bytes;
            barrier();
            std::vector<std::string> all;
            if (rank_ == root) all = shared_.bytes;
            barrier();
            return all;
        }
        void sum(std::span<int64_t> values) override {
            shared_.integers[static_cast<size_t>(rank_)].assign(values.begin(), values.end());
            barrier();
            for (size_t i = 0; i < values.size(); ++i) {
                values[i] = 0;
                for (const std::vector<int64_t>& of_rank : shared_.integers)
                    values[i] += of_rank.at(i);
            }
            barrier();
        }
        std::unique_ptr<core::Ranks> split(int color) override {
            std::vector<int64_t> colors(static_cast<size_t>(size()), 0);
            colors[static_cast<size_t>(rank_)] = color;
            sum(colors);
            const auto before = std::count(colors.begin(), colors.begin() + rank_, color);
            if (rank_ == 0)
                for (const int64_t one : colors)
                    shared_.parts[static_cast<int>(one)] =
                        std::make_shared<Shared>(static_cast<int>(std::ranges::count(colors, one)));
            barrier();
            auto part = std::make_unique<Member>(shared_.parts.at(color), static_cast<int>(before));
            barrier();
            return part;
        }

      private:
        std::shared_ptr<Shared> part_;  ///< null: another's
        Shared& shared_;
        const int rank_;
    };
};

}  // namespace plinth::test
