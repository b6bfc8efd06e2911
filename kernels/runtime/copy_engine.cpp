// SPDX-License-Identifier: Apache-2.0
#include "kernels/runtime/copy_engine.h"

#include <cstring>

namespace plinth {

namespace {

class HostCopyEngine final : public CopyEngine {
  public:
    explicit HostCopyEngine(Stream& stream) : stream_(stream) {}
    void wait_for_stream() override {}
    void copy(void* to, const void* from, size_t bytes) override {
        constexpr int64_t grain = int64_t{1} << 18;  // bytes
        auto* out = static_cast<std::byte*>(to);
        const auto* in = static_cast<const std::byte*>(from);
        parallel_for(stream_, static_cast<int64_t>(bytes), grain, [&](int64_t begin, int64_t end) {
            std::memcpy(out + begin, in + begin, static_cast<size_t>(end - begin));
        });
    }
    void hold_stream() override {}
    std::unique_ptr<DeviceEvent> record() override { return nullptr; }
    void synchronize() override {}

  private:
    Stream& stream_;
};

class DeviceCopyEngine final : public CopyEngine {
  public:
    explicit DeviceCopyEngine(Stream& stream)
        : stream_(stream), queue_(cuda_module().queue(stream.device().index, {})) {}
    void wait_for_stream() override { queue_->wait(*stream_.queue().record()); }
    void copy(void* to, const void* from, size_t bytes) override {
        if (bytes > 0) queue_->copy(to, from, bytes);
    }
    void hold_stream() override { stream_.queue().wait(*queue_->record()); }
    std::unique_ptr<DeviceEvent> record() override { return queue_->record(); }
    void synchronize() override { queue_->synchronize(); }

  private:
    Stream& stream_;
    std::unique_ptr<DeviceQueue> queue_;
};

}  // namespace

std::unique_ptr<CopyEngine> make_copy_engine(Stream& stream) {
    if (stream.device().type == DeviceType::cpu) return std::make_unique<HostCopyEngine>(stream);
    return std::make_unique<DeviceCopyEngine>(stream);
}

}  // namespace plinth
