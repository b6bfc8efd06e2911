// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/ops/layer_run.h"

#include "core/autograd/fp8_source.h"

namespace plinth::test {

LayerResult LayerTest::differentiate(const Layer& layer, core::Tensor x, const LayerRun& run,
                                     core::Fp8Source* source) {
    sink_->clear();
    Stream stream(run.threads);
    core::Tape tape;
    const core::Scope scope({.stream = &stream,
                             .allocator = allocator_.get(),
                             .tape = run.is_recorded ? &tape : nullptr,
                             .remake = run.remake,
                             .remake_hidden = run.remake_hidden,
                             .compute = x.dtype(),
                             .fp8 = source});
    for (const auto& made : parameters_) {  // makes the copies that are cached
        made->acquire(made->read_as(x.dtype()));
        made->release();
        if (source && made->takes_fp8()) source->weight(*made, false);
    }
    if (run.watch) tape.watch(x);
    const core::SavedTensor elsewhere = run.is_kept ? core::SavedTensor(x) : core::SavedTensor();
    const size_t before = allocator_->use().in_use;
    core::Tensor y = layer(x);
    LayerResult result{.y = to_doubles(y), .dx = {}, .parameters = {}};
    result.kept = allocator_->use().in_use - before - y.in().bytes();
    if (!run.is_recorded) return result;
    core::Tensor dy = tensor(random_values(y.elements(), "dy"), y.shape(), y.dtype());
    core::WeightHalves halves;
    auto dx = tape.backward({{y, std::move(dy)}}, {&x, 1}, {}, run.later ? &halves : nullptr);
    halves.run();
    if (run.watch) result.dx = to_doubles(dx[0]);
    for (const auto& made : parameters_)
        result.parameters[made->name()] = sink_->of(*made);
    return result;
}

}  // namespace plinth::test
