// SPDX-License-Identifier: Apache-2.0
// Updates by the host beside those of the device: the same bits, also in the weights that
// operations read.
#include "core/optim/offload.h"

#include "core/autograd/scope.h"
#include "core/optim/adamw.h"
#include "parallel/comm/nccl_links.h"
#include "parallel/comm/self.h"
#include "parallel/zero/weights.h"
#include "tests/gpu_parallel/device_buffers.h"

namespace plinth::test {
namespace {

using core::Parameter;
using core::Tensor;
using core::optim::AdamW;
using core::optim::MasterWeights;
using core::optim::Offload;
using core::optim::ParameterGradient;

/// A training without a model: gradients are given.
class Updates {
  public:
    Updates(int zero, DType compute, bool offloads)
        : compute_(compute), layout_(pointers_, int64_t{1} << 20) {
        if (offloads)
            offload_ = std::make_unique<Offload>(
                stream_, Offload::Memory{.states = host_, .blocks = pinned_});
        weights_ =
            parallel::make_weights(pointers_, layout_, self_, device_, stream_,
                                   {.zero = zero, .compute = compute, .offload = offload_.get()});
        const auto masters = weights_->masters();
        masters_.assign(masters.begin(), masters.end());
        optimizer_ = offload_
                         ? std::make_unique<AdamW>(masters_, core::optim::AdamWConfig{}, *offload_)
                         : std::make_unique<AdamW>(masters_, core::optim::AdamWConfig{}, device_);
        weights_->masters_changed();  // zeros
    }
    ~Updates() { stream_.synchronize(); }

    void step(int number) {
        std::vector<Tensor> kept;
        std::vector<ParameterGradient> gradients;
        for (const MasterWeights& master : masters_) {
            std::vector<float> values(static_cast<size_t>(master.range.elements()));
            for (size_t i = 0; i < values.size(); ++i)
                values[i] = static_cast<float>((master.range.begin + static_cast<int64_t>(i)) *
                                                   (number + 7) % 8191 -
                                               4000) *
                            1e-4f;
            kept.push_back(Tensor::of(values, {master.range.elements()}, device_, stream_));
            gradients.push_back({master.range.parameter, kept.back().out(), master.range.begin});
            stream_.synchronize();  // `values` goes
        }
        optimizer_->step(gradients, {.learning_rate = 1e-2, .gradient_scale = 0.37}, stream_);
        weights_->masters_changed();
        stream_.synchronize();
    }
    /// Of all weights as operations read them, and of the state.
    std::vector<std::vector<std::byte>> bits() {
        const core::Scope scope({.stream = &stream_, .allocator = &device_, .compute = compute_});
        std::vector<std::vector<std::byte>> all;
        const auto add = [&](const void* data, size_t bytes) {
            all.emplace_back(bytes);
            stream_.copy(all.back().data(), data, bytes);
            stream_.synchronize();
        };
        for (Parameter* parameter : pointers_) {
            const ConstView view = parameter->acquire(parameter->read_as(compute_)).in();
            add(view.data, view.bytes());
            parameter->release();
        }
        for (const MasterWeights& master : masters_)
            add(master.weights.in().data, master.weights.in().bytes());
        for (const core::StateTensor& moment : optimizer_->state())
            add(moment.data, moment.bytes());
        return all;
    }

  private:
    DType compute_;
    Stream stream_{{DeviceType::cuda, 0}, 2};
    CachingAllocator device_{cuda_module().memory(0)}, pinned_{cuda_module().pinned_memory()},
        host_{host_memory()};
    parallel::SelfCommunicator self_;
    parallel::DeviceConnection connection_{self_, stream_, parallel::DeviceWay::staged};
    Parameter table_{{.name = "table", .shape = {3001, 1000}, .init = {}, .decay = true}};
    Parameter norm_{{.name = "norm", .shape = {1000}, .init = {}, .decay = false}};
    Parameter matrix_{{.name = "matrix", .shape = {1000, 777}, .init = {}, .decay = true}};
    std::vector<Parameter*> pointers_{&table_, &norm_, &matrix_};
    parallel::BucketLayout layout_;
    std::unique_ptr<Offload> offload_;
    std::unique_ptr<parallel::Weights> weights_;
    std::vector<MasterWeights> masters_;
    std::unique_ptr<AdamW> optimizer_;
};

class OffloadDeviceTest : public ParallelDeviceTest {};

TEST_F(OffloadDeviceTest, TheHostsUpdatesAreThoseOfTheDevice) {
    for (const int zero : {0, 1, 3})
        for (const DType compute : {DType::f32, DType::bf16}) {
            Updates device(zero, compute, false), host(zero, compute, true);
            for (int step = 0; step < 5; ++step) {
                device.step(step);
                host.step(step);
                const auto expected = device.bits(), found = host.bits();
                ASSERT_EQ(found.size(), expected.size());
                for (size_t i = 0; i < found.size(); ++i)
                    ASSERT_TRUE(found[i] == expected[i])
                        << "zero " << zero << ", " << name_of(compute) << ", step " << step
                        << ", tensor " << i;
            }
        }
}

}  // namespace
}  // namespace plinth::test
