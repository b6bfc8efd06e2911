// SPDX-License-Identifier: Apache-2.0
#include "core/optim/offload.h"

#include <algorithm>

#include "kernels/cast.h"

namespace plinth::core::optim {

namespace {

constexpr int64_t cache_line = 64;

int64_t element_bytes(const ConstView& view) {
    return static_cast<int64_t>(size_of(view.dtype));
}

const std::byte* element_at(const ConstView& view, int64_t element) {
    return static_cast<const std::byte*>(view.data) + element * element_bytes(view);
}

}  // namespace

Offload::Offload(Stream& stream, const Memory& memory, Engines engines, int64_t block_bytes)
    : stream_(stream),
      memory_(memory),
      engines_(std::move(engines)),
      block_bytes_(block_bytes / 2 / cache_line * cache_line) {
    CHECK(block_bytes_ > 0, "blocks of {} bytes take no element", block_bytes);
    CHECK(memory.states.device().type == DeviceType::cpu &&
              memory.blocks.device().type == DeviceType::cpu,
          "states to offload in memory that is not the host's");
    for (Tensor& block : blocks_)
        block = Tensor::empty({block_bytes_ / 4}, DType::f32, memory_.blocks);
}

Offload::~Offload() {
    try {
        engines_.to_host->synchronize();
        engines_.to_device->synchronize();
    } catch (...) {  // the device's error was reported where it was found
    }
}

FlatTensors Offload::make_states(std::vector<ParameterRange> ranges, DType dtype) {
    return {std::move(ranges), memory_.states, dtype, &stream_};
}

std::byte* Offload::place(size_t filling, const Part& part) {
    return static_cast<std::byte*>(blocks_[filling % 2].out().data) + part.at;
}

template <typename Views>
std::vector<Offload::Filling> Offload::fillings_of(const Views& views) const {
    std::vector<Filling> fillings;
    int64_t free = 0;
    for (size_t i = 0; i < views.size(); ++i) {
        const int64_t size = element_bytes(views[i]);
        for (int64_t begin = 0; begin < views[i].elements();) {
            if (free < cache_line) {
                fillings.emplace_back();
                free = block_bytes_;
            }
            const int64_t count = std::min(views[i].elements() - begin, free / size);
            fillings.back().push_back({i, begin, count, block_bytes_ - free});
            begin += count;
            free -= (count * size + cache_line - 1) / cache_line * cache_line;
        }
    }
    return fillings;
}

void Offload::fetch(std::span<const ConstView> gradients, Work work) {
    for (const ConstView& gradient : gradients)
        CHECK(gradient.dtype == DType::f32 && gradient.is_contiguous(),
              "a gradient of shape {} that is not contiguous fp32", gradient.shape.text());
    const std::vector<Filling> fillings = fillings_of(gradients);
    const auto start = [&](size_t f) {
        for (const Part& part : fillings[f])
            engines_.to_host->copy(place(f, part), element_at(gradients[part.tensor], part.begin),
                                   static_cast<size_t>(part.count) * sizeof(float));
    };
    engines_.to_device->synchronize();  // the blocks were those of weights
    engines_.to_host->wait_for_stream();
    if (!fillings.empty()) start(0);
    for (size_t f = 0; f < fillings.size(); ++f) {
        engines_.to_host->synchronize();
        if (f + 1 < fillings.size()) start(f + 1);  // beside the work on this one
        for (const Part& part : fillings[f])
            work(part.tensor, part.begin, ConstView(place(f, part), DType::f32, {part.count}));
    }
}

void Offload::send(std::span<const MasterWeights> masters, std::span<Tensor> copies) {
    CHECK(masters.size() == copies.size(), "{} master weights, {} copies of them", masters.size(),
          copies.size());
    std::vector<View> targets;
    for (Tensor& copy : copies)
        targets.push_back(copy.out());
    const std::vector<Filling> fillings = fillings_of(targets);
    engines_.to_device->synchronize();      // the blocks are free
    engines_.to_device->wait_for_stream();  // who reads the weights of before is done
    for (size_t f = 0; f < fillings.size(); ++f) {
        for (const Part& part : fillings[f]) {
            const ConstView master = masters[part.tensor].weights.in();
            CHECK(master.elements() == targets[part.tensor].elements(),
                  "{}: {} master weights for {} elements that operations read",
                  masters[part.tensor].range.parameter->name(), master.elements(),
                  targets[part.tensor].elements());
            kernels::cast.cpu(View(place(f, part), targets[part.tensor].dtype, {part.count}),
                              ConstView(master.as<float>() + part.begin, DType::f32, {part.count}),
                              stream_);
        }
        engines_.to_device->synchronize();  // the other block's copies, made beside this work
        for (const Part& part : fillings[f]) {
            const View& target = targets[part.tensor];
            engines_.to_device->copy(const_cast<std::byte*>(element_at(target, part.begin)),
                                     place(f, part),
                                     static_cast<size_t>(part.count * element_bytes(target)));
        }
    }
    engines_.to_device->hold_stream();
}

}  // namespace plinth::core::optim
