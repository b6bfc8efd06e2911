// SPDX-License-Identifier: Apache-2.0
#include "kernels/runtime/stream.h"

#include <cstring>

#include "kernels/runtime/error.h"

namespace plinth {

Stream::Stream(Device device, int threads, const StreamOptions& options)
    : device_(device), pool_(std::make_unique<ThreadPool>(threads)) {
    if (device.type != DeviceType::cpu) queue_ = cuda_module().queue(device.index, options);
}

void* Stream::device_kernel(const char* name) const {
    void* kernel = cuda_module().kernel(name);
    REQUIRE(config, kernel != nullptr,
            "{}: this build has no CUDA kernel of that name; run on the CPU (run.device=cpu)",
            name);
    return kernel;
}

std::unique_ptr<Graph> Stream::capture(FunctionRef<void()> work) {
    CHECK(!is_capturing_, "captured work within captured work");
    const struct Capturing {
        Stream& stream;
        ~Capturing() {
            stream.is_capturing_ = false;
            stream.captured_.reset();
        }
    } until_the_end{*this};
    is_capturing_ = true;
    if (device_.type != DeviceType::cpu) return queue_->capture(work);
    captured_ = std::make_unique<HostGraph>(*this);
    work();
    return std::move(captured_);
}

void Stream::copy(void* to, const void* from, size_t bytes) {
    if (bytes == 0) return;
    if (captured_) return keep([=](Stream& stream) { stream.copy(to, from, bytes); });
    if (queue_)
        queue_->copy(to, from, bytes);
    else
        std::memcpy(to, from, bytes);
}

void Stream::set_zero(void* to, size_t bytes) {
    if (bytes == 0) return;
    if (captured_) return keep([=](Stream& stream) { stream.set_zero(to, bytes); });
    if (queue_)
        queue_->set_zero(to, bytes);
    else
        std::memset(to, 0, bytes);
}

void zero_host_memory(Stream& stream, void* data, size_t bytes) {
    constexpr int64_t grain = int64_t{4} << 20;  // bytes: whole huge pages, each touched by one
    auto* to = static_cast<std::byte*>(data);
    parallel_for(stream, static_cast<int64_t>(bytes), grain, [to](int64_t begin, int64_t end) {
        std::memset(to + begin, 0, static_cast<size_t>(end - begin));
    });
}

}  // namespace plinth
