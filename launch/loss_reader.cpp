// SPDX-License-Identifier: Apache-2.0
#include "launch/loss_reader.h"

namespace plinth::launch {

void LossReader::add(int64_t slot, const core::ops::Loss& loss) {
    losses_.emplace_back(slot, loss);
    // A host that has given a device the work of a whole step waits for all of it at once, which
    // may take longer than other ranks take for a hang. So it stays within a micro-batch: while the
    // device works on one, it hands out the next.
    if (session_.world().size() == 1) return;
    session_.stream().synchronize(before_.get());
    before_ = session_.stream().record();
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
