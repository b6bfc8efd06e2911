// SPDX-License-Identifier: Apache-2.0
// Micro-batches on their way to a device: each is there when the model reads it, however late
// copies are made, and the host waits for none.
#include "launch/batch_feed.h"

#include <gtest/gtest.h>

#include <cstring>
#include <deque>

#include "tests/support/fake_offload.h"

namespace plinth::test {
namespace {

using core::data::MicroBatch;
using launch::BatchFeed;

MicroBatch micro_batch(int number, int64_t rows, int64_t length) {
    MicroBatch loaded{.rows = rows, .length = length};
    for (int64_t i = 0; i < rows * length; ++i) {
        const auto word = static_cast<int32_t>(number * 1000 + i);
        loaded.inputs.push_back(word);
        loaded.targets.push_back(word + 1);
        loaded.positions.push_back(-word);
        loaded.document_ids.push_back(word % 7);
    }
    for (int64_t row = 0; row < rows; ++row)
        loaded.sample_ids.push_back(int64_t{number} << 40 | row);
    return loaded;
}

/// Copies that are done as early as they may be: at once, when the device has come to where they
/// may begin.
class EagerCopyEngine final : public CopyEngine {
  public:
    EagerCopyEngine(FakeDevice& device, bool ignores_stream)
        : device_(device), ignores_stream_(ignores_stream) {}
    void wait_for_stream() override { begin_ = device_.given(); }
    void copy(void* to, const void* from, size_t bytes) override {
        if (!ignores_stream_) device_.run_until(begin_);
        std::memcpy(device_.content_of(to), from, bytes);
    }
    void hold_stream() override {}
    std::unique_ptr<DeviceEvent> record() override { return nullptr; }
    void synchronize() override {}

  private:
    FakeDevice& device_;
    bool ignores_stream_;
    size_t begin_ = 0;
};

struct Options {
    bool document_mask = true;
    size_t held =
        0;  ///< micro-batches whose tensors are kept beside the running one, as a pipeline
    EngineFaults faults = {};
    bool is_eager = false;
};

/// How many micro-batches had other content when the device read them, at the end of all work.
int wrong_batches(const Options& options) {
    FakeDevice device;
    FakeDeviceMemory memory(device);
    CachingAllocator batches(memory), pinned(host_memory());
    std::unique_ptr<CopyEngine> engine;
    if (options.is_eager)
        engine = std::make_unique<EagerCopyEngine>(device, options.faults.ignores_stream);
    else
        engine = std::make_unique<FakeCopyEngine>(device, options.faults);
    BatchFeed feed({.batches = batches, .pinned = pinned}, options.document_mask,
                   std::move(engine));
    int wrong = 0;
    std::deque<core::Batch> held;
    for (int number = 0; number < 12; ++number) {
        const int64_t length = number < 6 ? 16 : number < 9 ? 8 : 32;  // padded examples
        const MicroBatch loaded = micro_batch(number, 2, length);
        const core::Batch batch = feed(loaded);
        EXPECT_EQ(batch.document_ids.defined(), options.document_mask);
        EXPECT_EQ(batch.tokens.shape(), (Shape{2, length}));
        // A kernel, which reads when the device comes to it; the addresses are all it has.
        const core::Tensor* tensors[] = {&batch.tokens, &batch.targets, &batch.positions,
                                         &batch.document_ids, &batch.sample_ids};
        std::vector<const void*> at;
        for (const core::Tensor* tensor : tensors)
            at.push_back(tensor->in().data);
        device.then([&wrong, &device, at, loaded, mask = options.document_mask] {
            const auto same = [&](size_t i, const auto& values) {
                return std::memcmp(device.content_of(at[i]), values.data(),
                                   values.size() * sizeof(values[0])) == 0;
            };
            const bool is_right =
                same(0, loaded.inputs) && same(1, loaded.targets) && same(2, loaded.positions) &&
                (!mask || same(3, loaded.document_ids)) && same(4, loaded.sample_ids);
            wrong += !is_right;
        });
        held.push_back(batch);
        while (held.size() > options.held)
            held.pop_front();
        // The device runs some way behind.
        if (device.given() > 6) device.run_until(device.given() - 6);
    }
    device.synchronize();
    return wrong;
}

TEST(BatchFeed, EveryMicroBatchIsThereWhenItIsRead) {
    for (const bool mask : {true, false})
        for (const size_t held : {0u, 1u, 3u})
            for (const bool eager : {true, false})
                EXPECT_EQ(wrong_batches({.document_mask = mask, .held = held, .is_eager = eager}),
                          0)
                    << held << (eager ? ", copied early" : ", copied late");
}

TEST(BatchFeed, MutantsOfItsEngineAreSeen) {
    EXPECT_GT(wrong_batches({.faults = {.ignores_stream = true}, .is_eager = true}), 0)
        << "copies over what the device still reads";
    EXPECT_GT(wrong_batches({.faults = {.does_not_wait = true}}), 0)
        << "pinned memory that is used again before it was copied";
    EXPECT_GT(wrong_batches({.faults = {.does_not_hold = true}}), 0)
        << "a device that does not wait for the copy";
    for (const int forgotten : {0, 4, 17})
        EXPECT_GT(wrong_batches({.faults = {.forgotten = forgotten}}), 0) << forgotten;
}

TEST(BatchFeed, TwoPlacesServeMicroBatchesOneAfterTheOther) {
    Stream stream(1);
    CachingAllocator allocator(host_memory());
    BatchFeed feed(stream, {.batches = allocator, .pinned = allocator}, false);
    std::vector<const void*> places;
    for (int number = 0; number < 8; ++number) {
        const core::Batch batch = feed(micro_batch(number, 2, 16));
        EXPECT_EQ(batch.tokens.values<int32_t>(), micro_batch(number, 2, 16).inputs);
        places.push_back(batch.tokens.in().data);
    }
    EXPECT_NE(places[0], places[1]);
    for (size_t i = 2; i < places.size(); ++i)
        EXPECT_EQ(places[i], places[i - 2]);
}

}  // namespace
}  // namespace plinth::test
