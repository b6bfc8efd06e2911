// SPDX-License-Identifier: Apache-2.0
#include "core/autograd/activation_store.h"

#include "core/autograd/scope.h"

namespace plinth::core {

ActivationStore::~ActivationStore() {
    try {
        engines_.to_host->synchronize();
        engines_.to_device->synchronize();
    } catch (...) {  // the device's error was reported where it was found
    }
}

ActivationStore::Kept::~Kept() {
    if (!coming_.defined()) return;
    try {
        store_.engines_.to_device->hold_stream();  // whoever gets its memory next comes after it
    } catch (...) {  // the device's error was reported where it was found
    }
}

std::shared_ptr<ActivationStore::Kept> ActivationStore::keep(const Tensor& x, const Tape& tape) {
    CHECK(x.is_contiguous(), "a strided tensor of shape {} to keep on the host", x.shape().text());
    auto kept = std::make_shared<Kept>(*this);
    release_newest(tape, *kept);
    kept->tape_ = &tape;
    kept->shape_ = x.shape();
    kept->dtype_ = x.dtype();
    kept->here_ = SavedTensor(x);
    kept->host_ = Tensor::empty(x.shape(), x.dtype(), host_);
    engines_.to_host->wait_for_stream();  // x is made, and who had the host's block has read it
    engines_.to_host->copy(kept->host_.out().data, x.in().data, x.in().bytes());
    newest_ = kept;
    return kept;
}

void ActivationStore::release_newest(const Tape& tape, Kept& next) {
    const auto last = newest_.lock();
    if (!last) return;
    if (last->is_here_) {
        engines_.to_host->hold_stream();  // whoever gets its memory next comes after its copy
        last->here_.take_for_writing("an input that waits on the host");
        last->is_here_ = false;
    }
    if (last->tape_ == &tape) next.before_ = last;
}

void ActivationStore::fetch(Kept& kept) {
    kept.coming_ = Scope::current().empty(kept.shape_, kept.dtype_);
    // Who had that memory is done; and the stream was held until this one was on the host.
    engines_.to_device->wait_for_stream();
    engines_.to_device->copy(kept.coming_.out().data, kept.host_.in().data,
                             kept.host_.in().bytes());
}

Tensor ActivationStore::take(Kept& kept) {
    Tensor x;
    if (kept.is_here_) {
        x = kept.here_.take_for_writing("recompute");
        kept.is_here_ = false;
    } else {
        if (!kept.coming_.defined()) fetch(kept);
        engines_.to_device->hold_stream();
        x = std::move(kept.coming_);
    }
    kept.host_ = {};  // who gets the block next is later on the engine, or after the stream
    if (const auto before = kept.before_.lock(); before && !before->is_here_) fetch(*before);
    return x;
}

}  // namespace plinth::core
