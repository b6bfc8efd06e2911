// SPDX-License-Identifier: Apache-2.0
// Device memory through transports that know host memory only: staged through pinned host memory.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/runtime/allocator.h"
#include "kernels/runtime/stream.h"
#include "parallel/comm/transfer.h"

namespace plinth::parallel {

/// How a rank reaches memory that its host cannot touch. Copies are done in the order of the
/// device's work and may return before that; host memory stays as it is until `synchronize`.
class DeviceCopies {
  public:
    virtual ~DeviceCopies() = default;
    virtual bool is_device(const void* data) const = 0;
    virtual void to_host(void* host, const void* device, size_t bytes) = 0;
    virtual void to_device(void* device, const void* host, size_t bytes) = 0;
    virtual void within_device(void* to, const void* from, size_t bytes) = 0;
    /// Waits until all work so far is done.
    virtual void synchronize() = 0;
    /// Host memory that the copies reach best.
    virtual MemorySource& host_memory() = 0;
};

/// The memory that one rank's communicators stage device memory in. Used by that rank's thread.
class DeviceStaging {
  public:
    explicit DeviceStaging(std::unique_ptr<DeviceCopies> copies)
        : copies_(std::move(copies)), host_(copies_->host_memory()) {}
    /// Waits for copies under way.
    ~DeviceStaging();
    DeviceStaging(const DeviceStaging&) = delete;
    DeviceStaging& operator=(const DeviceStaging&) = delete;

    /// Host memory; back to the staging when it goes.
    class Block {
      public:
        Block(DeviceStaging& staging, size_t bytes)
            : staging_(&staging),
              data_(static_cast<std::byte*>(staging.host_.allocate(bytes))),
              bytes_(bytes) {}
        Block(Block&& other) noexcept
            : staging_(other.staging_),
              data_(std::exchange(other.data_, nullptr)),
              bytes_(other.bytes_) {}
        Block& operator=(Block&&) = delete;
        ~Block() {
            if (data_) staging_->host_.free(data_, bytes_);
        }
        Bytes bytes() const { return {data_, bytes_}; }

      private:
        DeviceStaging* staging_;
        std::byte* data_;
        size_t bytes_;
    };

    bool is_device(const void* data) const { return copies_->is_device(data); }
    DeviceCopies& copies() { return *copies_; }
    /// Copies a block to the device and keeps it until that is done: until the next `synchronize`,
    /// which comes by itself when many bytes have been kept.
    void send_off(std::byte* device, Block block);
    /// Waits for all copies so far.
    void synchronize();
    /// Bytes of blocks whose copies to the device may still be under way.
    size_t kept_bytes() const { return kept_bytes_; }

  private:
    static constexpr size_t most_kept_bytes = size_t{256} << 20;

    std::unique_ptr<DeviceCopies> copies_;
    CachingAllocator host_;
    std::vector<Block> kept_;
    size_t kept_bytes_ = 0;
};

/// For a rank that computes on this stream's device; the stream must live as long.
std::shared_ptr<DeviceStaging> device_staging(Stream& stream);

/// The buffers of one call as the host sees them: those in host memory are what they are, those in
/// device memory have a twin there.
class StagedCall {
  public:
    /// Null: all memory is the host's, and nothing is looked at.
    explicit StagedCall(std::shared_ptr<DeviceStaging> staging) : staging_(std::move(staging)) {}

    bool is_device(const void* data) const { return staging_ && staging_->is_device(data); }
    /// Bytes to read, once `read` was called.
    ConstBytes source(ConstBytes bytes);
    /// Bytes to write.
    Bytes target(Bytes bytes);
    /// Bytes to read and to write.
    Bytes changed(Bytes bytes);
    /// Between any two kinds of memory. A target in host memory is there once `read` was called.
    void copy(Bytes to, ConstBytes from);
    /// From here on the host may read: waits for the device if it has to.
    void read();
    /// The call's transfer; when it is done what was received is on its way to the device, in the
    /// order of the device's work.
    std::unique_ptr<Transfer> staged(std::unique_ptr<Transfer> transfer);

  private:
    friend class StagedTransfer;
    struct Twin {
        Bytes device;  ///< empty: not copied back
        DeviceStaging::Block host;
    };

    std::shared_ptr<DeviceStaging> staging_;
    std::vector<Twin> twins_;
    ConstBytes last_source_;  ///< has the newest twin
    bool is_reading_ = false;
};

}  // namespace plinth::parallel
