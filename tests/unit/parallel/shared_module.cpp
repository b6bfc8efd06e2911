// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/parallel/shared_module.h"

#include <mutex>

#include "core/optim/parameter_storage.h"
#include "core/tensor/shard_runs.h"
#include "parallel/comm/threads.h"
#include "parallel/tensor_parallel/tensor_layout.h"
#include "tests/support/op_fixture.h"
#include "tests/support/surroundings.h"

namespace plinth::test {
namespace {

using core::Parameter;
using core::Tensor;

constexpr int64_t B = 3, T = 8;

void fill(Parameter& parameter) {
    const auto values = random_values(parameter.shape().elements(), parameter.name());
    // Gains of norms stay near 1, the rest small: as in training.
    const float middle = parameter.spec().init.kind == core::Init::Kind::ones ? 1.0f : 0.0f;
    float* local = parameter.master().data<float>();
    for (const core::Shard& box : parameter.boxes()) {
        core::Runs runs(box);
        for (core::Run run; runs.next(run);)
            for (int64_t i = 0; i < run.count; ++i)
                local[run.local + i] = middle + 0.3f * values[static_cast<size_t>(run.global + i)];
        local += box.elements();
    }
    parameter.changed();
}

core::Batch batch_of(CachingAllocator& allocator, const core::TokenSlice& slice) {
    std::vector<int32_t> tokens, targets, positions, documents;
    for (int32_t i = 0; i < B * T; ++i) {
        const auto t = static_cast<int32_t>(i % T);
        tokens.push_back((i * 11 + 3) % 21);
        targets.push_back(i % 7 == 4 ? core::Batch::ignored_target : (i * 5 + 2) % 21);
        positions.push_back(t < 5 ? t : t - 5);
        documents.push_back(t < 5 ? 0 : 1);
    }
    const Shape shape{B, T};
    return {.tokens = Tensor::of(tokens, shape, allocator),
            .targets = Tensor::of(targets, shape, allocator),
            .positions = Tensor::of(positions, shape, allocator),
            .document_ids = Tensor::of(documents, shape, allocator),
            .sample_ids = Tensor::of<int64_t>({4, 5, 11}, {B}, allocator),
            .slice = slice};
}

/// The slice's tokens of a global [B, T, width], by name.
Tensor tokens_of(const std::string& name, int64_t width, const core::TokenSlice& slice, DType dtype,
                 CachingAllocator& allocator) {
    const auto all = random_values(B * T * width, name);
    const int64_t count = slice.is_whole() ? T : slice.count;
    std::vector<float> part;
    for (int64_t b = 0; b < B; ++b) {
        const auto begin = all.begin() + (b * T + slice.first) * width;
        part.insert(part.end(), begin, begin + count * width);
    }
    if (dtype == DType::f32) return Tensor::of(part, {B, count, width}, allocator);
    return Tensor::of(std::vector<BFloat16>(part.begin(), part.end()), {B, count, width},
                      allocator);
}

/// Puts a rank's tokens into their places of [B, T, width].
void place_tokens(std::vector<double>& all, const Tensor& part, const core::TokenSlice& slice) {
    const auto values = to_doubles(part);
    const int64_t width = part.dim(-1), count = part.elements() / width / B;
    all.resize(static_cast<size_t>(B * T * width));
    for (int64_t b = 0; b < B; ++b)
        std::copy_n(values.begin() + b * count * width, count * width,
                    all.begin() + (b * T + slice.first) * width);
}

/// Puts a rank's gradient into its boxes of the global one; partial ones are added.
void place_gradient(std::vector<double>& all, const Parameter& parameter,
                    const std::vector<double>& values) {
    all.resize(static_cast<size_t>(parameter.shape().elements()));
    size_t at = 0;
    for (const core::Shard& box : parameter.boxes()) {
        core::Runs runs(box);
        for (core::Run run; runs.next(run);)
            for (int64_t i = 0; i < run.count; ++i) {
                double& sum = all[static_cast<size_t>(run.global + i)];
                const double value = values[at + static_cast<size_t>(run.local + i)];
                sum = parameter.gradient_is_partial() ? sum + value : value;
            }
        at += static_cast<size_t>(box.elements());
    }
}

/// One rank's part; results go to `result` under the lock.
void run_rank(const ModuleCase& c, const core::nn::Layout& layout, const core::TokenSlice& slice,
              const ModuleRun& how, ModuleResult& result, std::mutex& mutex) {
    Surroundings here(1);
    GradientMap sink(here.allocator);
    const Declared module = c.declare(layout);
    const auto& parameters = module.parameters->all();
    core::optim::FlatTensors masters = core::optim::materialize(parameters, here.allocator);
    for (Parameter* parameter : parameters) {
        fill(*parameter);
        parameter->set_sink(&sink);
    }
    core::Tape tape;
    core::Scope::Settings settings = here.settings(&tape);
    settings.compute = how.dtype;
    settings.remake = how.remake;
    settings.remake_hidden = how.remake_hidden;
    const core::Scope scope(settings);
    Tensor x = tokens_of("x", c.width, slice, how.dtype, here.allocator);
    tape.watch(x);
    const Tensor y = module.run(x, batch_of(here.allocator, slice));
    Tensor dy = module.gives_loss ? Tensor::of<float>({1.0f}, {1}, here.allocator)
                                  : tokens_of("dy", c.width, slice, how.dtype, here.allocator);
    const auto dx = tape.backward({{y, dy}}, {&x, 1});
    const std::lock_guard lock(mutex);
    if (module.gives_loss)
        result.y = {*y.in().as<double>()};
    else
        place_tokens(result.y, y, slice);
    if (module.takes_x) place_tokens(result.dx, dx[0], slice);
    for (Parameter* parameter : parameters)
        place_gradient(result.dweights[parameter->name()], *parameter, sink.of(*parameter));
}

double distance_of(const std::vector<double>& a, const std::vector<double>& b) {
    CHECK(a.size() == b.size(), "{} and {} elements", a.size(), b.size());
    double largest = 1e-30, far = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
        largest = std::max(largest, std::abs(b[i]));
        far = std::max(far, std::abs(a[i] - b[i]));
        if (std::isnan(a[i])) return 1e30;
    }
    return far / largest;
}

}  // namespace

ModuleResult run_module(const ModuleCase& c, int ranks, const ModuleRun& how) {
    ModuleResult result;
    std::mutex mutex;
    if (ranks == 1) {
        run_rank(c, core::nn::whole_layout(), {}, how, result, mutex);
        return result;
    }
    parallel::run_as_threads(ranks, [&](parallel::Communicator& sound) {
        const auto wrapped = how.wrap ? how.wrap(sound) : nullptr;
        parallel::Communicator& group = wrapped ? *wrapped : sound;
        const parallel::TensorLayout layout(c.plan, group);
        const auto other = how.wrap_layout ? how.wrap_layout(layout) : nullptr;
        const core::nn::Layout& used =
            other ? *other : static_cast<const core::nn::Layout&>(layout);
        run_rank(c, used, parallel::tokens_of_rank(T, group), how, result, mutex);
    });
    return result;
}

double distance(const ModuleResult& a, const ModuleResult& b) {
    double far = std::max(distance_of(a.y, b.y), distance_of(a.dx, b.dx));
    CHECK(a.dweights.size() == b.dweights.size(), "{} and {} gradients", a.dweights.size(),
          b.dweights.size());
    for (const auto& [name, gradient] : b.dweights)
        far = std::max(far, distance_of(a.dweights.at(name), gradient));
    return far;
}

}  // namespace plinth::test
