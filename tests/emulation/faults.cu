// SPDX-License-Identifier: Apache-2.0
// What the emulated device is for: kernels and host code with a fault that a GPU would show rarely,
// late or never. Each is seen, and its correct twin is not.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <csignal>
#include <cstdlib>
#include <vector>

#include "tests/emulation/machine.h"

namespace {

constexpr int threads = 64;

/// Every thread reads what its neighbour wrote.
template <bool has_barrier>
__global__ void rotate(int* out) {
    __shared__ int parts[threads];
    const int i = static_cast<int>(threadIdx.x);
    parts[i] = i;
    if (has_barrier) __syncthreads();
    out[i] = parts[(i + 1) % threads];
}

__global__ void wait_apart() {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        asm volatile("bar.sync %0, %1;" ::"r"(1), "r"(threads) : "memory");
}

__global__ void diverge(int* out) {
    if (threadIdx.x % 2 == 0)
        out[0] = __shfl_sync(0xffffffffu, 1, 0);
    else
        __syncwarp();
}

/// Half a warp returns; the others still sum and meet.
__global__ void return_early(int* out) {
    if (threadIdx.x >= 16) return;
    int sum = 1;
    for (int distance = 8; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(0xffffu, sum, distance);
    __syncthreads();
    out[threadIdx.x] = sum;
}

__global__ void lanes(unsigned* out) {
    const unsigned i = threadIdx.x;
    out[i] = __ballot_sync(0xffffffffu, i % 3 == 0) + __shfl_xor_sync(0xffffffffu, i, 5) +
             __shfl_sync(0xffffffffu, 100 * i, 7) + __reduce_max_sync(0xffffffffu, 1000 * i);
}

__global__ void sum_dynamic(float* out) {
    extern __shared__ float values[];
    values[threadIdx.x] = 1.0f;
    __syncthreads();
    float sum = 0.0f;
    for (int i = 0; i < static_cast<int>(blockDim.x); ++i)
        sum += values[i];
    out[threadIdx.x] = sum;
}

__global__ void read_unwritten(float* out) {
    __shared__ float never_written[4];
    out[0] = never_written[1];
}

__global__ void write(int* out, int at) {
    out[at] = 1;
}

class EmulatedDevice : public testing::Test {
  protected:
    EmulatedDevice() {
        cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
        cudaStreamCreateWithFlags(&other_, cudaStreamNonBlocking);
    }
    ~EmulatedDevice() override {
        cudaStreamDestroy(stream_);
        cudaStreamDestroy(other_);
    }
    template <typename T>
    T* device(size_t count) {
        T* block = nullptr;
        EXPECT_EQ(cudaMalloc(&block, count * sizeof(T)), cudaSuccess);
        return block;
    }

    cudaStream_t stream_ = nullptr, other_ = nullptr;
    emulation::DeviceAccess access_;  ///< tests look at the device's memory
};

std::vector<int> rotated() {
    std::vector<int> expected;
    for (int i = 0; i < threads; ++i)
        expected.push_back((i + 1) % threads);
    return expected;
}

TEST_F(EmulatedDevice, AMissingBarrierGivesOtherNumbers) {
    int* out = device<int>(threads);
    rotate<true><<<1, threads, 0, stream_>>>(out);
    ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    EXPECT_EQ(std::vector<int>(out, out + threads), rotated());
    rotate<false><<<1, threads, 0, stream_>>>(out);
    ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    EXPECT_NE(std::vector<int>(out, out + threads), rotated());
}

TEST_F(EmulatedDevice, LanesOfAWarpExchange) {
    auto* out = device<unsigned>(32);
    lanes<<<1, 32, 0, stream_>>>(out);
    ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    for (unsigned i = 0; i < 32; ++i)
        EXPECT_EQ(out[i], 0x49249249u + (i ^ 5u) + 700u + 31000u);
    auto* sums = device<int>(16);
    return_early<<<1, 32, 0, stream_>>>(sums);
    ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    EXPECT_EQ(sums[15], 16);
}

TEST_F(EmulatedDevice, DynamicSharedMemoryOverTheLimitMustBeAskedFor) {
    constexpr size_t much = size_t{50} << 10;
    auto* out = device<float>(threads);
    sum_dynamic<<<1, threads, threads * sizeof(float), stream_>>>(out);
    ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    EXPECT_EQ(out[threads - 1], 64.0f);
    sum_dynamic<<<1, threads, much, stream_>>>(out);
    EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
    EXPECT_EQ(cudaFuncSetAttribute(sum_dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, much),
              cudaSuccess);
    sum_dynamic<<<1, threads, much, stream_>>>(out);
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST_F(EmulatedDevice, LaunchesThatNoGridHoldsAreErrors) {
    int* out = device<int>(1);
    write<<<0, 1, 0, stream_>>>(out, 0);
    EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidConfiguration);
    write<<<dim3(1, 65536), 1, 0, stream_>>>(out, 0);
    EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidConfiguration);
    write<<<1, 1025, 0, stream_>>>(out, 0);
    EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidConfiguration);
}

TEST_F(EmulatedDevice, WhatWasNeverWrittenIsNoNumber) {
    auto* out = device<float>(2);
    EXPECT_TRUE(std::isnan(out[0]));
    out[0] = 0.0f;
    read_unwritten<<<1, 1, 0, stream_>>>(out);
    ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    EXPECT_TRUE(std::isnan(out[0]));
}

/// A stream that does not wait for another reads old memory; one that waits does not.
TEST_F(EmulatedDevice, WorkThatDoesNotWaitIsEarly) {
    for (const bool waits : {true, false}) {
        int *from = device<int>(1), *to = device<int>(1);
        *from = 0;
        write<<<1, 1, 0, stream_>>>(from, 0);
        cudaEvent_t written = nullptr;
        cudaEventCreate(&written);
        cudaEventRecord(written, stream_);
        if (waits) cudaStreamWaitEvent(other_, written, 0);
        cudaMemcpyAsync(to, from, sizeof(int), cudaMemcpyDefault, other_);
        ASSERT_EQ(cudaStreamSynchronize(other_), cudaSuccess);
        EXPECT_EQ(*to, waits ? 1 : 0);
        cudaEventDestroy(written);
    }
}

TEST_F(EmulatedDevice, CapturedWorkRunsWhenItIsLaunched) {
    int* out = device<int>(2);
    out[0] = 0;
    ASSERT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    write<<<1, 1, 0, stream_>>>(out, 0);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaErrorStreamCaptureUnsupported);
    void* block = nullptr;
    EXPECT_EQ(cudaMalloc(&block, 8), cudaErrorStreamCaptureUnsupported);
    cudaGraph_t graph = nullptr;
    ASSERT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
    cudaGraphExec_t executable = nullptr;
    ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
    cudaGraphDestroy(graph);
    cudaStreamSynchronize(stream_);
    EXPECT_EQ(out[0], 0);
    for (int run = 0; run < 2; ++run) {
        out[0] = 0;
        cudaGraphLaunch(executable, stream_);
        ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
        EXPECT_EQ(out[0], 1);
    }
    cudaGraphExecDestroy(executable);
    cudaGetLastError();
}

using EmulatedDeviceDeathTest = EmulatedDevice;

TEST_F(EmulatedDeviceDeathTest, AnAccessPastTheEndFaults) {
    int* out = device<int>(64);
    write<<<1, 1, 0, stream_>>>(out, 63);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    EXPECT_EXIT(
        {
            write<<<1, 1, 0, stream_>>>(out, 64);
            cudaStreamSynchronize(stream_);
        },
        testing::KilledBySignal(SIGSEGV), "");
}

/// As long as nobody works for the device.
TEST(EmulatedHostDeathTest, TheDevicesMemoryIsNotTheHosts) {
    int *out = nullptr, *pinned = nullptr, found = 0;
    cudaMalloc(&out, sizeof(int));
    cudaHostAlloc(&pinned, sizeof(int), 0);
    cudaStream_t stream = nullptr;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    write<<<1, 1, 0, stream>>>(out, 0);
    cudaMemcpyAsync(pinned, out, sizeof(int), cudaMemcpyDefault, stream);
    cudaMemcpyAsync(&found, out, sizeof(int), cudaMemcpyDefault, stream);
    EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    EXPECT_EQ(found, 1);
    EXPECT_EQ(*pinned, 1);
    EXPECT_EXIT(std::_Exit(*const_cast<volatile int*>(out)), testing::KilledBySignal(SIGSEGV), "");
    EXPECT_EXIT(*const_cast<volatile int*>(out) = 1, testing::KilledBySignal(SIGSEGV), "");
    int* later = nullptr;
    cudaMalloc(&later, sizeof(int));
    EXPECT_EXIT(*const_cast<volatile int*>(later) = 1, testing::KilledBySignal(SIGSEGV), "");
    cudaMemset(later, 0, sizeof(int));
    cudaStreamDestroy(stream);
    EXPECT_EQ(cudaFree(later), cudaSuccess);
}

/// After such a fault the device is of no use, as a GPU is: each in a process of its own.
void expect_failure(const char* message, void (*launch)(cudaStream_t, int*)) {
    EXPECT_EXIT(
        {
            cudaStream_t stream = nullptr;
            cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
            int* out = nullptr;
            cudaMalloc(&out, sizeof(int));
            launch(stream, out);
            const bool failed = cudaStreamSynchronize(stream) == cudaErrorLaunchFailure;
            std::_Exit(failed ? 7 : 0);
        },
        testing::ExitedWithCode(7), message);
}

TEST_F(EmulatedDeviceDeathTest, ThreadsThatWaitForEverAreNamed) {
    expect_failure("32 of 64 at __syncthreads; 32 of 64 at barrier 1",
                   [](cudaStream_t stream, int*) { wait_apart<<<1, threads, 0, stream>>>(); });
    expect_failure("lanes of a warp meet at __(shfl_sync|syncwarp) and at __",
                   [](cudaStream_t stream, int* out) { diverge<<<1, 32, 0, stream>>>(out); });
}

}  // namespace
