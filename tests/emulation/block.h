// SPDX-License-Identifier: Apache-2.0
// One block of a kernel on the CPU: every thread is a fiber, and one block runs at a time. Fibers
// change only at barriers and at what the lanes of a warp do together, so a block has the same
// result each time; the order in which threads go on between two barriers is a choice, and a kernel
// that lacks a barrier has other results in another order.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace emulation {

struct Index3 {
    unsigned x = 0, y = 0, z = 0;
};

/// Where the running thread is: what threadIdx, blockIdx, blockDim and gridDim read.
struct Place {
    Index3 thread, block, threads, blocks;
};
const Place& place();

/// In which order the threads of a block go on after a barrier.
enum class Order {
    ascending,
    descending,
    shuffled,  ///< another order after each barrier, the same in each run
    warps,     ///< each warp as far as it gets alone: a warp that meets no barrier runs ahead
};

/// Runs body once for each thread of the block. Returns why it could not be run to its end (threads
/// that wait for what never comes), or an empty text. `shared_bytes` of dynamic shared memory,
/// filled with a pattern.
std::string run_block(const Place& first, size_t shared_bytes, Order order,
                      const std::function<void()>& body);

/// The block's dynamic shared memory, at a multiple of 128 bytes.
void* dynamic_shared();
/// Fills a shared variable with a pattern when the first thread of the block meets it.
void enter_shared(void* variable, size_t bytes);

/// Waits for all threads of the block that have not returned.
void wait_for_block();
/// The same, and whether any thread of them gave true.
bool any_of_block(bool is_true);
/// Waits until `threads` threads are at the barrier of that number (PTX: bar.sync).
void wait_for_threads(unsigned barrier, unsigned threads);

/// What the lanes of a warp gave to one exchange.
struct Lanes {
    static constexpr size_t most_bytes = 64;
    uint32_t present = 0;  ///< a bit for each lane that takes part
    std::array<std::array<std::byte, most_bytes>, 32> values;
};
/// Waits for the lanes of `mask` that have not returned, each of which gives the bytes of one
/// value; `what` must be the same text in all of them.
const Lanes& exchange(uint32_t mask, const char* what, const void* value, size_t bytes);
unsigned lane();

}  // namespace emulation
