// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "core/autograd/tape.h"
#include "kernels/runtime/allocator.h"
#include "kernels/runtime/copy_engine.h"

namespace plinth::core {

/// Tensors that wait in host memory for their backward pass. They leave and come beside the
/// computation: one leaves while what was computed from it is, and comes while the backward pass is
/// at the one that was kept after it on the same tape. The newest of all tapes stays where it is,
/// too: where no other tape comes between, it is wanted first. So there are at most three where the
/// model computes: the newest, one at hand and one on its way.
///
/// Used by the thread of the stream that the engines go beside, and outlives the tapes.
class ActivationStore {
  public:
    struct Engines {
        std::unique_ptr<CopyEngine> to_host, to_device;
    };

    /// `host` is memory that the engines reach best. Of it the store takes what is kept at once and
    /// not a byte more.
    ActivationStore(MemorySource& host, Engines engines)
        : host_(host, CachingAllocator::Rounding::none), engines_(std::move(engines)) {}
    /// Waits for copies under way.
    ~ActivationStore();
    ActivationStore(const ActivationStore&) = delete;
    ActivationStore& operator=(const ActivationStore&) = delete;

    /// What became of one tensor.
    class Kept {
      public:
        explicit Kept(ActivationStore& store) : store_(store) {}
        /// Also one that was never taken, on a tape that an error has ended.
        ~Kept();
        Kept(const Kept&) = delete;
        Kept& operator=(const Kept&) = delete;

      private:
        friend class ActivationStore;
        ActivationStore& store_;
        const Tape* tape_ = nullptr;  ///< its identity
        Shape shape_;
        DType dtype_ = DType::f32;
        SavedTensor here_;  ///< the newest, in its own memory
        bool is_here_ = true;
        Tensor host_;    ///< on the way there, or there
        Tensor coming_;  ///< on the way back; undefined before
        std::weak_ptr<Kept> before_;
    };

    /// Of a contiguous tensor, in the order in which the tape records; it must not be changed any
    /// more.
    std::shared_ptr<Kept> keep(const Tensor& x, const Tape& tape);
    /// Once, where the current scope computes. The same bits.
    Tensor take(Kept& kept);

    /// Most bytes of host memory at once.
    size_t peak_bytes() const { return host_.use().peak; }

  private:
    void release_newest(const Tape& tape, Kept& next);
    void fetch(Kept& kept);

    CachingAllocator host_;  ///< its own: blocks are used again in the order of the engines' work
    Engines engines_;
    std::weak_ptr<Kept> newest_;
};

}  // namespace plinth::core
