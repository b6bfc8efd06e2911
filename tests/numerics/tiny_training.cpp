// SPDX-License-Identifier: Apache-2.0
#include "tests/numerics/tiny_training.h"

#include <cmath>
#include <numeric>

#include "core/autograd/scope.h"
#include "core/models/transformer.h"
#include "core/optim/grad_norm.h"
#include "kernels/runtime/device_module.h"
#include "parallel/comm/self.h"
#include "parallel/data_parallel/lane_reducer.h"

namespace plinth::test {

namespace {

using core::Tensor;

Checksum checksum(const std::string& name, const std::vector<float>& values, double scale) {
    std::vector<double> scaled;
    double square = 0.0;
    for (const float value : values) {
        scaled.push_back(scale * static_cast<double>(value));
        square += scaled.back() * scaled.back();
    }
    return {.norm = std::sqrt(square), .probe = golden_probe(name, scaled)};
}

/// The objects of one run, in the order of their lifetimes.
class TinyTraining {
  public:
    TinyTraining(const GoldenModel& golden, const TrainingSetup& setup, const Mutant& mutant)
        : golden_(golden),
          setup_(setup),
          mutant_(mutant),
          allocator_(setup.on_device ? cuda_module().memory(0) : host_memory()),
          stream_(setup.on_device ? Device{DeviceType::cuda, 0} : Device{}, setup.threads,
                  StreamOptions{.reproducible = true}),
          model_(golden.config),
          parameters_(model_.parameters()),
          // Small buckets, so that there are many.
          reducer_(parameters_.all(), world_, allocator_, stream_, {.bucket_bytes = 8192}),
          masters_(core::optim::materialize(parameters_.all(), allocator_)),
          optimizer_(parameters_.all(), golden.optimizer, allocator_) {
        for (core::Parameter* parameter : parameters_.all()) {
            std::vector<float> values;
            for (int64_t i = 0; i < parameter->master().elements(); ++i)
                values.push_back(golden_weight(parameter->name(), i));
            stream_.copy(parameter->master().out().data, values.data(),
                         values.size() * sizeof(float));
            stream_.synchronize();
        }
        if (mutant_.start) mutant_.start(parameters_);
        changed();
    }

    TrainingResult run() {
        for (size_t step = 1; step <= golden_.facts.steps.size(); ++step)
            train_step(static_cast<int>(step));
        for (core::Parameter* parameter : parameters_.all()) {
            const auto values = parameter->master().read<float>(stream_);
            result_.facts.parameters[parameter->name()] = checksum(parameter->name(), values, 1.0);
            result_.weights.insert(result_.weights.end(), values.begin(), values.end());
        }
        return std::move(result_);
    }

  private:
    struct Sums {
        double loss = 0.0;
        int64_t weight = 0;
    };

    template <typename T>
    std::vector<T> on_host(ConstView view) {
        std::vector<T> values(static_cast<size_t>(view.elements()));
        stream_.copy(values.data(), view.data, view.bytes());
        stream_.synchronize();
        return values;
    }

    void changed() {
        for (core::Parameter* parameter : parameters_.all())
            parameter->changed();
    }

    core::Batch slot_of(const GoldenBatch& batch, int64_t slot) {
        const int64_t rows = setup_.micro_batch, T = golden_.length;
        const auto part = [&](const std::vector<int32_t>& all) {
            const auto begin = all.begin() + slot * rows * T;
            return Tensor::of(std::vector<int32_t>(begin, begin + rows * T), {rows, T}, allocator_,
                              stream_);
        };
        std::vector<int32_t> positions;
        std::vector<int64_t> samples;
        for (int64_t row = 0; row < rows; ++row) {
            samples.push_back(step_.step * golden_.batch + slot * rows + row);
            for (int32_t t = 0; t < T; ++t)
                positions.push_back(t);
        }
        return {.tokens = part(batch.tokens),
                .targets = part(batch.labels),
                .positions = Tensor::of(positions, {rows, T}, allocator_, stream_),
                .document_ids = {},
                .sample_ids = Tensor::of(samples, {rows}, allocator_, stream_)};
    }

    Sums run_slot(const GoldenBatch& batch, int64_t slot) {
        core::Tape tape;
        const core::Scope scope({.stream = &stream_,
                                 .allocator = &allocator_,
                                 .tape = &tape,
                                 .step = &step_,
                                 .training = true,
                                 .remake = setup_.remake,
                                 .remake_hidden = setup_.remake_hidden,
                                 .compute = setup_.compute});
        reducer_.begin_slot(slot);
        const core::ops::Loss loss = model_.loss(slot_of(batch, slot));
        const Sums sums{on_host<double>(loss.sum.in())[0], on_host<int64_t>(loss.weight.in())[0]};
        if (mutant_.turn) {
            mutant_.turn(parameters_);
            changed();
        }
        tape.backward({{loss.sum, Tensor::of<float>({1.0f}, {1}, allocator_, stream_)}}, {},
                      [this] { reducer_.progress(); });
        reducer_.end_slot();
        for (const core::Parameter* parameter : parameters_.all())
            CHECK(parameter->readers() == 0, "{}: acquired and not released", parameter->name());
        return sums;
    }

    void train_step(int number) {
        GoldenBatch batch =
            golden_batch(number, golden_.batch, golden_.length, golden_.config.vocab_size);
        if (mutant_.batch) mutant_.batch(batch);
        const int64_t slots = golden_.batch / setup_.micro_batch;
        reducer_.begin_step({.slots = slots, .lanes = setup_.lanes, .ranks = 1});
        Sums sums;
        for (int64_t slot = 0; slot < slots; ++slot) {
            const Sums more = run_slot(batch, slot);
            sums = {sums.loss + more.loss, sums.weight + more.weight};
        }
        reducer_.finish();
        const auto weight = static_cast<double>(sums.weight);
        const double norm =
            core::optim::gradient_norm(reducer_.gradients(), ranks_, allocator_, stream_) / weight;
        record({.loss = sums.loss / weight, .norm = norm}, weight);
        const double clip = norm > golden_.clip ? golden_.clip / norm : 1.0;
        optimizer_.step(reducer_.gradients(),
                        {.learning_rate = golden_.learning_rate, .gradient_scale = clip / weight},
                        stream_);
        if (mutant_.update) mutant_.update(parameters_, golden_.learning_rate);
        changed();
        ++step_.step;
    }

    void record(const StepFacts& facts, double weight) {
        result_.facts.steps.push_back(facts);
        result_.scalars.push_back(facts.loss);
        result_.scalars.push_back(facts.norm);
        if (result_.facts.steps.size() > 1) return;
        for (const core::optim::ParameterGradient& entry : reducer_.gradients())
            result_.facts.gradients[entry.parameter->name()] =
                checksum(entry.parameter->name(), on_host<float>(entry.gradient), 1.0 / weight);
    }

    const GoldenModel& golden_;
    const TrainingSetup& setup_;
    const Mutant& mutant_;
    CachingAllocator allocator_;
    Stream stream_;
    core::models::Transformer model_;
    core::nn::ParameterSet& parameters_;
    parallel::SelfCommunicator world_;
    core::SelfRanks ranks_;
    parallel::LaneReducer reducer_;
    core::optim::FlatTensors masters_;
    core::optim::AdamW optimizer_;
    core::StepState step_{.seed = 1};
    TrainingResult result_;
};

}  // namespace

TrainingResult train(GoldenModel golden, const TrainingSetup& setup, const Mutant& mutant) {
    golden.config.recompute = setup.recompute;
    golden.config.dropout = setup.dropout;
    if (mutant.configuration) mutant.configuration(golden);
    return TinyTraining(golden, setup, mutant).run();
}

}  // namespace plinth::test
