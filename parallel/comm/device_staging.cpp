// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/device_staging.h"

#include <cstring>

#include "kernels/runtime/device_module.h"
#include "parallel/comm/communicator.h"

namespace plinth::parallel {

namespace {

class StreamCopies final : public DeviceCopies {
  public:
    explicit StreamCopies(Stream& stream) : stream_(stream) {}
    bool is_device(const void* data) const override {
        return cuda_module().is_device_pointer(data);
    }
    void to_host(void* host, const void* device, size_t bytes) override {
        stream_.copy(host, device, bytes);
    }
    void to_device(void* device, const void* host, size_t bytes) override {
        stream_.copy(device, host, bytes);
    }
    void within_device(void* to, const void* from, size_t bytes) override {
        stream_.copy(to, from, bytes);
    }
    void synchronize() override { stream_.synchronize(); }
    MemorySource& host_memory() override { return cuda_module().pinned_memory(); }

  private:
    Stream& stream_;
};

}  // namespace

std::shared_ptr<DeviceStaging> device_staging(Stream& stream) {
    return std::make_shared<DeviceStaging>(std::make_unique<StreamCopies>(stream));
}

// --- DeviceStaging ------------------------------------------------------------------------------

DeviceStaging::~DeviceStaging() {
    if (kept_.empty()) return;
    try {
        copies_->synchronize();
    } catch (...) {  // the device's error was reported where it was found
    }
}

void DeviceStaging::send_off(std::byte* device, Block block) {
    const Bytes bytes = block.bytes();
    kept_.push_back(std::move(block));
    kept_bytes_ += bytes.size();
    copies_->to_device(device, bytes.data(), bytes.size());
    if (kept_bytes_ > most_kept_bytes) synchronize();
}

void DeviceStaging::synchronize() {
    copies_->synchronize();
    kept_.clear();
    kept_bytes_ = 0;
}

// --- StagedCall ---------------------------------------------------------------------------------

/// Sends what was received to the device.
class StagedTransfer final : public Transfer {
  public:
    StagedTransfer(StagedCall call, std::unique_ptr<Transfer> transfer)
        : call_(std::move(call)), transfer_(std::move(transfer)) {}
    bool test() override {
        if (!transfer_->test()) return false;
        for (StagedCall::Twin& twin : call_.twins_)
            if (!twin.device.empty())
                call_.staging_->send_off(twin.device.data(), std::move(twin.host));
        return true;
    }

  private:
    StagedCall call_;  // goes after the transfer, which may still write into its blocks
    std::unique_ptr<Transfer> transfer_;
};

ConstBytes StagedCall::source(ConstBytes bytes) {
    if (bytes.empty() || !is_device(bytes.data())) return bytes;
    if (last_source_.data() == bytes.data() && last_source_.size() == bytes.size())
        return twins_.back().host.bytes();  // the same for another rank
    const Twin& twin = twins_.emplace_back(Twin{{}, {*staging_, bytes.size()}});
    copy(twin.host.bytes(), bytes);
    last_source_ = bytes;
    return twin.host.bytes();
}

Bytes StagedCall::target(Bytes bytes) {
    if (bytes.empty() || !is_device(bytes.data())) return bytes;
    last_source_ = {};
    return twins_.emplace_back(Twin{bytes, {*staging_, bytes.size()}}).host.bytes();
}

Bytes StagedCall::changed(Bytes bytes) {
    const Bytes host = target(bytes);
    if (host.data() != bytes.data()) copy(host, bytes);
    return host;
}

void StagedCall::copy(Bytes to, ConstBytes from) {
    if (from.empty()) return;
    const bool to_device = is_device(to.data()), from_device = is_device(from.data());
    if (!to_device && !from_device) {
        std::memcpy(to.data(), from.data(), from.size());
    } else if (to_device && from_device) {
        staging_->copies().within_device(to.data(), from.data(), from.size());
    } else if (from_device) {
        staging_->copies().to_host(to.data(), from.data(), from.size());
        is_reading_ = true;
    } else {
        DeviceStaging::Block block(*staging_, from.size());
        std::memcpy(block.bytes().data(), from.data(), from.size());
        staging_->send_off(to.data(), std::move(block));
    }
}

void StagedCall::read() {
    if (is_reading_) staging_->synchronize();
    is_reading_ = false;
}

std::unique_ptr<Transfer> StagedCall::staged(std::unique_ptr<Transfer> transfer) {
    if (twins_.empty()) return transfer;
    return std::make_unique<StagedTransfer>(std::move(*this), std::move(transfer));
}

}  // namespace plinth::parallel
