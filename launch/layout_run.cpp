// SPDX-License-Identifier: Apache-2.0
#include "launch/layout_run.h"

#include <bit>
#include <mutex>

#include "core/tensor/shard_runs.h"
#include "kernels/runtime/philox.h"
#include "launch/build.h"
#include "parallel/comm/threads.h"

namespace plinth::launch {

namespace {

/// Puts the pieces of all ranks together. Used by all ranks at once.
class Assembly {
  public:
    explicit Assembly(std::map<std::string, LayoutRecord::Tensor>& tensors) : tensors_(tensors) {}

    void add(const std::vector<core::StateTensor>& pieces) {
        const std::lock_guard lock(mutex_);
        for (const core::StateTensor& piece : pieces)
            add(piece);
    }
    /// After the last rank: names what nobody holds.
    void close() {
        for (auto& [name, tensor] : tensors_)
            for (size_t i = 0; i < tensor.values.size() && tensor.problem.empty(); ++i)
                if (!held_[name][i]) tensor.problem = fmt::format("no rank holds element {}", i);
    }

  private:
    void add(const core::StateTensor& piece) {
        LayoutRecord::Tensor& tensor = tensors_[piece.name];
        std::vector<bool>& held = held_[piece.name];
        const auto elements = static_cast<size_t>(piece.shard.global_shape.elements());
        tensor.values.resize(elements);
        held.resize(elements);
        core::Runs runs(piece.shard);
        for (core::Run run; runs.next(run);)
            for (int64_t i = 0; i < run.count; ++i) {
                const auto at = static_cast<size_t>(run.global + i);
                const float value = piece.value(run.local + i);
                if (held[at] &&
                    std::bit_cast<uint32_t>(tensor.values[at]) != std::bit_cast<uint32_t>(value) &&
                    tensor.problem.empty())
                    tensor.problem = fmt::format("two ranks hold {} and {} as element {}",
                                                 tensor.values[at], value, at);
                tensor.values[at] = value;
                held[at] = true;
            }
    }

    std::mutex mutex_;
    std::map<std::string, LayoutRecord::Tensor>& tensors_;
    std::map<std::string, std::vector<bool>> held_;
};

/// Tokens of a sample, a document boundary somewhere in it: functions of its global number.
core::Batch drawn_batch(const RunConfig& config, int64_t first_sample, Session& session) {
    CachingAllocator& allocator = session.allocator();
    Stream& stream = session.stream();
    const int64_t B = config.train.micro_batch, T = config.data.sequence_length;
    const RandomKey key(static_cast<uint64_t>(config.data.seed), "verify.tokens");
    std::vector<int32_t> tokens, targets, positions, documents;
    std::vector<int64_t> samples;
    for (int64_t b = 0; b < B; ++b) {
        const auto sample = static_cast<uint64_t>(first_sample + b);
        const auto token = [&](int64_t t) {
            const uint32_t word = key.words(static_cast<uint64_t>(t), sample)[0];
            return static_cast<int32_t>(word % static_cast<uint32_t>(config.model.vocab_size));
        };
        const int64_t boundary =
            config.data.document_mask
                ? static_cast<int64_t>(key.words(0, sample)[1] % static_cast<uint32_t>(T))
                : T;
        samples.push_back(first_sample + b);
        for (int64_t t = 0; t < T; ++t) {
            tokens.push_back(token(t));
            targets.push_back(t + 1 == boundary ? core::Batch::ignored_target : token(t + 1));
            positions.push_back(static_cast<int32_t>(t < boundary ? t : t - boundary));
            documents.push_back(t < boundary ? 0 : 1);
        }
    }
    core::Batch batch{.tokens = core::Tensor::of(tokens, {B, T}, allocator, stream),
                      .targets = core::Tensor::of(targets, {B, T}, allocator, stream),
                      .positions = core::Tensor::of(positions, {B, T}, allocator, stream),
                      .document_ids = {},
                      .sample_ids = core::Tensor::of(samples, {B}, allocator, stream)};
    if (config.data.document_mask)
        batch.document_ids = core::Tensor::of(documents, {B, T}, allocator, stream);
    return batch;
}

/// One rank's training.
class LayoutRank {
  public:
    LayoutRank(const RunConfig& config, parallel::Communicator& world)
        : config_(config),
          session_(world, /*threads=*/1),
          groups_(world, mesh_config(config.parallel)),
          model_(language_model(config, groups_)),
          engine_(config, session_, groups_, *model_),
          schedule_(learning_rate_schedule(
              config.optimizer, total_steps(config.train, config.data.sequence_length))) {
        step_.seed = static_cast<uint64_t>(config.train.seed);
        engine_.initialize(step_.seed);
        engine_.decide_on_device();
    }

    Engine& engine() { return engine_; }
    core::models::Model& model() { return *model_; }
    bool speaks() const { return session_.speaks(); }

    /// Losses and norms go to `record`, where this rank speaks.
    void run_micro_batches(parallel::StepScalars& scalars) {
        const int64_t first = step_.step * config_.train.global_batch;
        const auto source = [&](int64_t slot) {
            return drawn_batch(config_, first + slot * config_.train.micro_batch, session_);
        };
        engine_.run_micro_batches(model_->phases().front(), plan(), step_, source, scalars);
    }

    void update(parallel::StepScalars& scalars, LayoutRecord& record) {
        scalars.reduce(session_.world());
        step_.learning_rate = schedule_.rate(step_.step);
        engine_.end_step(scalars, step_.learning_rate);
        const StepMeans means = engine_.take_means(/*waits=*/true).value();
        if (speaks()) {
            record.losses.push_back(means.loss);
            record.norms.push_back(means.gradient_norm);
        }
        step_.update_count = engine_.update_count();
        ++step_.step;
    }

    parallel::LanePlan plan() const {
        return {config_.train.global_batch / config_.train.micro_batch, config_.train.lanes,
                groups_.size(parallel::Axis::data)};
    }
    parallel::StepScalars scalars() const {
        return parallel::StepScalars(engine_.decides_on_device() ? 0 : plan().slots,
                                     groups_.world());
    }

  private:
    const RunConfig& config_;
    Session session_;
    parallel::Groups groups_;
    std::unique_ptr<core::models::Model> model_;
    Engine engine_;
    core::optim::Schedule schedule_;
    core::StepState step_;
};

}  // namespace

LayoutRecord train_layout(const Layout& layout, int64_t steps, const LayoutDoubles& doubles) {
    LayoutRecord record;
    Assembly start(record.start), gradients(record.gradients), state(record.state);
    const auto body = [&](parallel::Communicator& sound) {
        const auto double_of_world = doubles.world ? doubles.world(sound) : nullptr;
        parallel::Communicator& world = double_of_world ? *double_of_world : sound;
        LayoutRank rank(layout.config, world);
        if (doubles.before_training) doubles.before_training(world.rank(), rank.model());
        start.add(rank.engine().weights());
        for (int64_t step = 0; step < steps; ++step) {
            parallel::StepScalars scalars = rank.scalars();
            rank.run_micro_batches(scalars);
            if (doubles.after_gradients) doubles.after_gradients(world.rank(), rank.engine());
            if (step == 0) gradients.add(rank.engine().gradients());
            rank.update(scalars, record);
            if (doubles.after_update) doubles.after_update(world.rank(), rank.engine());
        }
        state.add(rank.engine().state());
    };
    parallel::run_as_threads(layout.ranks, body);
    start.close();
    gradients.close();
    state.close();
    return record;
}

}  // namespace plinth::launch
