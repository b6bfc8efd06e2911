// SPDX-License-Identifier: Apache-2.0
#include "launch/loss_reader.h"

namespace plinth::launch {

void LossReader::add(int64_t slot, const core::ops::Loss& loss) {
    losses_.emplace_back(slot, loss);
    pace_.end_micro_batch();
}

std::vector<ReadLoss> LossReader::read() {
    const auto count = static_cast<int64_t>(losses_.size());
    core::Tensor values = core::Tensor::empty({count, 2}, DType::f64, session_.host_allocator());
    core::Tensor counts = core::Tensor::empty({count, 2}, DType::i64, session_.host_allocator());
    Stream& stream = session_.stream();
    double* value = values.data<double>();
    int64_t* number = counts.data<int64_t>();
    for (size_t i = 0; i < losses_.size(); ++i) {
        const core::ops::Loss& loss = losses_[i].second;
        stream.copy(value + 2 * i, loss.sum.in().as<double>(), sizeof(double));
        stream.copy(value + 2 * i + 1, loss.cross_entropy.in().as<double>(), sizeof(double));
        stream.copy(number + 2 * i, loss.weight.in().as<int64_t>(), sizeof(int64_t));
        stream.copy(number + 2 * i + 1, loss.correct.in().as<int64_t>(), sizeof(int64_t));
    }
    stream.synchronize();
    if (sharing_) {
        const auto items = static_cast<size_t>(2 * count);
        sharing_->all_reduce("losses", std::span(value, items), parallel::Reduce::sum);
        sharing_->all_reduce("loss weights", std::span(number, items), parallel::Reduce::sum);
    }
    std::vector<ReadLoss> read;
    for (size_t i = 0; i < losses_.size(); ++i)
        read.push_back({.slot = losses_[i].first,
                        .sum = value[2 * i],
                        .cross_entropy = value[2 * i + 1],
                        .weight = number[2 * i],
                        .correct = number[2 * i + 1]});
    losses_.clear();
    return read;
}

}  // namespace plinth::launch
