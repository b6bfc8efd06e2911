// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/optim/parameter_storage.h"
#include "kernels/runtime/copy_engine.h"
#include "kernels/runtime/function_ref.h"

namespace plinth::core::optim {

/// fp32 master weights and optimizer states in host memory, updated by the host, while gradients
/// and the weights that operations read stay where the model computes (Ren et al. 2021,
/// "ZeRO-Offload: Democratizing Billion-Scale Model Training").
///
/// Gradients come and weights go through two blocks of host memory that the copy engines reach
/// best: while the host works on what is in one, the other is copied. A block takes many small
/// tensors, or a part of a large one.
class Offload {
  public:
    /// Of both together.
    static constexpr int64_t default_block_bytes = int64_t{16} << 20;

    struct Memory {
        CachingAllocator& states;  ///< of masters and moments: any host memory
        CachingAllocator& blocks;
    };
    struct Engines {
        std::unique_ptr<CopyEngine> to_host, to_device;
    };

    /// `stream` is that of the model, whose threads do the host's work; it and the allocators must
    /// outlive the offload.
    Offload(Stream& stream, const Memory& memory)
        : Offload(stream, memory, {make_copy_engine(stream), make_copy_engine(stream)},
                  default_block_bytes) {}
    Offload(Stream& stream, const Memory& memory, Engines engines, int64_t block_bytes);
    /// Waits for copies under way.
    ~Offload();
    Offload(const Offload&) = delete;
    Offload& operator=(const Offload&) = delete;

    /// Masters or moments of those ranges: zeros, by the threads of the stream.
    FlatTensors make_states(std::vector<ParameterRange> ranges, DType dtype = DType::f32);

    /// Calls work(i, begin, part) with each gradient's elements in host memory, in order: `part`
    /// are the fp32 elements of gradient i from `begin` on, there until the call returns. Returns
    /// when all were given.
    using Work = FunctionRef<void(size_t gradient, int64_t begin, ConstView part)>;
    void fetch(std::span<const ConstView> gradients, Work work);

    /// copies[i] = masters[i], rounded to the copy's dtype. May return before that is done; later
    /// work of the stream comes after it.
    void send(std::span<const MasterWeights> masters, std::span<Tensor> copies);

  private:
    /// Elements [begin, begin + count) of a tensor, `at` bytes behind the begin of a block.
    struct Part {
        size_t tensor = 0;
        int64_t begin = 0;
        int64_t count = 0;
        int64_t at = 0;
    };
    using Filling = std::vector<Part>;

    std::byte* place(size_t filling, const Part& part);
    template <typename Views>
    std::vector<Filling> fillings_of(const Views& views) const;

    Stream& stream_;
    Memory memory_;
    Engines engines_;
    int64_t block_bytes_;  ///< of one
    std::array<Tensor, 2> blocks_;
};

}  // namespace plinth::core::optim
