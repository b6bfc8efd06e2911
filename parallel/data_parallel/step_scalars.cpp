// SPDX-License-Identifier: Apache-2.0
#include "parallel/data_parallel/step_scalars.h"

#include <algorithm>
#include <bit>

namespace plinth::parallel {

StepScalars::StepScalars(int64_t slots, const Communicator& communicator)
    : rank_(communicator.rank()),
      slots_(static_cast<size_t>(slots)),
      busy_(static_cast<size_t>(communicator.size())) {}

void StepScalars::set_slot(int64_t slot, double loss_sum, int64_t weight, double z_loss_sum) {
    Slot& mine = slots_.at(static_cast<size_t>(slot));
    mine.loss = loss_sum;
    mine.z_loss = z_loss_sum;
    ++mine.times;
    weight_ += weight;
}

void StepScalars::reduce(Communicator& communicator) {
    busy_[static_cast<size_t>(rank_)] = busy_seconds_;
    // One vector: bit patterns of numbers that one rank knows and the others leave at +0 (all bits
    // zero), so that an integer sum carries them unchanged, NaNs included; then counts.
    std::vector<int64_t> words;
    for (const Slot& slot : slots_)
        for (const double number : {slot.loss, slot.z_loss})
            words.push_back(std::bit_cast<int64_t>(number));
    for (const double seconds : busy_)
        words.push_back(std::bit_cast<int64_t>(seconds));
    for (const Slot& slot : slots_)
        words.push_back(slot.times);
    words.insert(words.end(), flags_.begin(), flags_.end());
    words.insert(words.end(), {weight_, tokens_});
    communicator.all_reduce("step scalars", std::span(words), Reduce::sum);
    auto word = words.begin();
    for (Slot& slot : slots_) {
        slot.loss = std::bit_cast<double>(*word++);
        slot.z_loss = std::bit_cast<double>(*word++);
    }
    for (double& seconds : busy_)
        seconds = std::bit_cast<double>(*word++);
    for (Slot& slot : slots_)
        slot.times = *word++;
    for (int64_t& flag : flags_)
        flag = *word++;
    weight_ = *word++;
    tokens_ = *word;
    loss_sum_ = z_loss_sum_ = 0.0;
    for (size_t g = 0; g < slots_.size(); ++g) {
        CHECK(slots_[g].times == 1, "the loss of slot {} was set {} times", g, slots_[g].times);
        loss_sum_ += slots_[g].loss;
        z_loss_sum_ += slots_[g].z_loss;
    }
}

int StepScalars::busiest_rank() const {
    return static_cast<int>(std::max_element(busy_.begin(), busy_.end()) - busy_.begin());
}

int StepScalars::idlest_rank() const {
    return static_cast<int>(std::min_element(busy_.begin(), busy_.end()) - busy_.begin());
}

}  // namespace plinth::parallel
