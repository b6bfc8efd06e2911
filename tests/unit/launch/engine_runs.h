// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "core/tensor/shard_runs.h"
#include "kernels/runtime/philox.h"
#include "launch/build.h"
#include "launch/config/load.h"
#include "launch/engine.h"
#include "parallel/comm/threads.h"

// Training steps of the Engine over thread ranks, on tokens that are a function of (step, slot),
// and the state that they lead to, put together from all ranks.
namespace plinth::launch::test {

using parallel::Communicator;

struct EngineRun {
    std::vector<double> losses, norms;  ///< by step; a norm that is no number is -1
    /// Global tensors of the state, by name.
    std::map<std::string, std::vector<float>> state;
    std::map<std::string, int64_t> holders;  ///< of the elements together, by name
    std::vector<size_t> peak_memory;         ///< by rank
    std::vector<int64_t> bytes_sent;         ///< by rank, in the last step
};

inline RunConfig tiny_config(const std::string& file, std::vector<std::string> overrides) {
    std::vector<std::string> words{"model.width=32", "data.sequence_length=16",
                                   "train.micro_batch=1", "parallel.bucket_bytes=16384",
                                   "optimizer.clip=0.5"};
    if (file.find("llama") == std::string::npos) words.push_back("model.dropout=0.1");
    words.insert(words.end(), overrides.begin(), overrides.end());
    return load<RunConfig>(core::io::posix(), std::string(PLINTH_SOURCE_DIR) + "/configs/" + file,
                           words);
}

/// One rank of a run: what a training loop holds, without data, files and logs.
class EngineRank {
  public:
    EngineRank(const RunConfig& given, Communicator& world)
        : config(given),
          session(world, 1),
          groups(world, mesh_config(config.parallel)),
          model(language_model(config, groups)),
          engine(config, session, groups, *model) {
        step.seed = 7;
    }

    parallel::LanePlan plan() const {
        return {config.train.global_batch / config.train.micro_batch, config.train.lanes,
                groups.size(parallel::Axis::data)};
    }

    core::Batch batch(int64_t slot) {
        const int64_t rows = config.train.micro_batch, length = config.data.sequence_length;
        const RandomKey key(step.seed, "tokens", static_cast<uint64_t>(step.step));
        std::vector<int32_t> tokens, targets, positions;
        std::vector<int64_t> samples;
        for (int64_t row = 0; row < rows; ++row) {
            const int64_t sample = step.step * config.train.global_batch + slot * rows + row;
            samples.push_back(sample);
            for (int64_t t = 0; t < length; ++t) {
                const auto words = key.words(static_cast<uint64_t>(sample * 4096 + t));
                tokens.push_back(static_cast<int32_t>(words[0] % 256));
                targets.push_back(static_cast<int32_t>(words[1] % 16));
                positions.push_back(static_cast<int32_t>(t));
            }
        }
        const Shape shape{rows, length};
        return {.tokens = core::Tensor::of(tokens, shape, session.allocator()),
                .targets = core::Tensor::of(targets, shape, session.allocator()),
                .positions = core::Tensor::of(positions, shape, session.allocator()),
                .document_ids = {},
                .sample_ids = core::Tensor::of(samples, {rows}, session.allocator())};
    }

    /// Loss and gradient norm of one step.
    std::pair<double, double> train(const std::function<void(EngineRank&)>& before_end = {}) {
        parallel::StepScalars scalars(engine.decides_on_device() ? 0 : plan().slots,
                                      session.world());
        engine.run_micro_batches(
            model->phases().front(), plan(), step, [this](int64_t slot) { return batch(slot); },
            scalars);
        scalars.reduce(session.world());
        if (before_end) before_end(*this);
        engine.end_step(scalars, 1e-2);
        ++step.step;
        const StepMeans means = engine.take_means(/*waits=*/true).value();
        return {means.loss, means.gradient_norm};
    }

    RunConfig config;
    Session session;
    parallel::Groups groups;
    std::unique_ptr<core::models::Model> model;
    Engine engine;
    core::StepState step;
};

/// Puts this rank's part of the state into `run`. Whatever two ranks hold must be equal.
inline void collect(EngineRank& rank, EngineRun& run) {
    for (const core::StateTensor& tensor : rank.engine.state()) {
        std::vector<float>& global = run.state[tensor.name];
        global.resize(static_cast<size_t>(tensor.shard.global_shape.elements()), std::nanf(""));
        run.holders[tensor.name] += tensor.shard.elements();
        core::Runs runs(tensor.shard);
        for (core::Run part; runs.next(part);)
            for (int64_t i = 0; i < part.count; ++i) {
                float& place = global[static_cast<size_t>(part.global + i)];
                const float value = tensor.value(part.local + i);
                CHECK(std::isnan(place) || std::memcmp(&place, &value, sizeof(value)) == 0,
                      "{}: element {} differs between ranks", tensor.name, part.global + i);
                place = value;
            }
    }
}

struct RunOptions {
    int ranks = 1;
    int steps = 3;
    /// Stands between the ranks and their communicator.
    std::function<std::unique_ptr<Communicator>(Communicator&)> tamper = {};
    std::function<void(EngineRank&)> begin = {};  ///< in place of fresh weights
    std::function<void(EngineRank&)> after_step = {};
    bool on_device = false;                            ///< which decides whether a step counts
    std::function<void(EngineRank&)> before_end = {};  ///< of each step
};

inline EngineRun run_engine(const RunConfig& config, const RunOptions& options) {
    EngineRun run;
    std::mutex mutex;
    run.peak_memory.resize(static_cast<size_t>(options.ranks));
    run.bytes_sent.resize(static_cast<size_t>(options.ranks));
    parallel::run_as_threads(options.ranks, [&](Communicator& sound) {
        const auto tampered = options.tamper ? options.tamper(sound) : nullptr;
        EngineRank rank(config, tampered ? *tampered : sound);
        if (options.begin)
            options.begin(rank);
        else
            rank.engine.initialize(rank.step.seed);
        if (options.on_device) rank.engine.decide_on_device();
        CHECK(rank.engine.decides_on_device() == options.on_device, "who decides");
        for (int step = 0; step < options.steps; ++step) {
            const auto [loss, norm] = rank.train(options.before_end);
            if (options.after_step) options.after_step(rank);
            if (sound.rank() > 0) continue;
            run.losses.push_back(loss);
            run.norms.push_back(std::isnan(norm) ? -1.0 : norm);
        }
        rank.engine.check_replicas(options.steps);
        const std::lock_guard lock(mutex);
        const auto me = static_cast<size_t>(sound.rank());
        run.peak_memory[me] = rank.session.allocator().use().peak;
        run.bytes_sent[me] = rank.engine.communication().bytes_sent;
        collect(rank, run);
    });
    return run;
}

/// What differs, "" if nothing does, bit for bit.
inline std::string difference(const EngineRun& a, const EngineRun& b) {
    if (a.losses != b.losses) return "losses";
    if (a.norms != b.norms) return "norms";
    for (const auto& [name, values] : a.state) {
        const auto found = b.state.find(name);
        if (found == b.state.end() || found->second.size() != values.size() ||
            std::memcmp(found->second.data(), values.data(), values.size() * sizeof(float)) != 0)
            return name;
    }
    return a.state.size() == b.state.size() ? "" : "names";
}

}  // namespace plinth::launch::test
