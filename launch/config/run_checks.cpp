// SPDX-License-Identifier: Apache-2.0
#include "launch/config/run_checks.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "kernels/runtime/error.h"
#include "parallel/context_parallel/zigzag.h"

namespace plinth::launch {

int64_t smallest_batch(const TrainSection& train) {
    int64_t smallest = train.global_batch;
    for (const BatchRampStage& stage : train.batch_ramp)
        smallest = std::min(smallest, stage.global_batch);
    return smallest;
}

std::optional<Problem> check_ramp(const TrainSection& train) {
    int64_t previous = -1;
    for (size_t i = 0; i < train.batch_ramp.size(); ++i) {
        const BatchRampStage& stage = train.batch_ramp[i];
        const std::string key = fmt::format("train.batch_ramp.{}", i);
        if (stage.samples <= previous)
            return Problem{key, fmt::format("samples {} do not come after the stage before ({})",
                                            stage.samples, previous)};
        if (stage.global_batch % train.micro_batch != 0)
            return Problem{key, fmt::format("global_batch {} is not a multiple of "
                                            "train.micro_batch {}",
                                            stage.global_batch, train.micro_batch)};
        previous = stage.samples;
    }
    if (train.batch_ramp.empty()) return {};
    const BatchRampStage &first = train.batch_ramp.front(), &last = train.batch_ramp.back();
    if (first.samples != 0)
        return Problem{
            "train.batch_ramp.0",
            fmt::format("begins at sample {}; the first stage begins at 0", first.samples)};
    if (last.global_batch != train.global_batch)
        return Problem{fmt::format("train.batch_ramp.{}", train.batch_ramp.size() - 1),
                       fmt::format("the last stage has global_batch {}, but holds to the end of "
                                   "the run: give it train.global_batch {}",
                                   last.global_batch, train.global_batch)};
    return {};
}

std::optional<Problem> check_sources(const DataSection& data) {
    std::set<std::string> names;
    for (size_t i = 0; i < data.sources.size(); ++i) {
        const BlendSource& source = data.sources[i];
        const std::string key = fmt::format("data.sources.{}", i);
        if (source.path.empty())
            return Problem{key, "path is missing: where are the shards of this source?"};
        if (!source.name.empty() && !names.insert(source.name).second)
            return Problem{
                key, fmt::format("two sources are called '{}'; give them names", source.name)};
    }
    int64_t previous = 0;
    for (size_t i = 0; i < data.skip.size(); ++i) {
        const SkipRange& range = data.skip[i];
        const std::string key = fmt::format("data.skip.{}", i);
        if (range.begin >= range.end)
            return Problem{key, fmt::format("[{}, {}) is empty", range.begin, range.end)};
        if (range.begin < previous)
            return Problem{key, fmt::format("begins at {}, before the range before it ends ({})",
                                            range.begin, previous)};
        previous = range.end;
    }
    return {};
}

std::optional<Problem> check_lengths(const RunConfig& config) {
    const ModelSection& model = config.model;
    if (model.positions == PositionKind::learned &&
        config.data.sequence_length > model.max_positions)
        return Problem{"data.sequence_length",
                       fmt::format("{} tokens, but model.max_positions is {} and learned positions "
                                   "end there",
                                   config.data.sequence_length, model.max_positions)};
    const int64_t steps = total_steps(config.train, config.data.sequence_length);
    if (config.optimizer.warmup_steps > steps)
        return Problem{"optimizer.warmup_steps",
                       fmt::format("{} steps of warm-up, but the run has {}",
                                   config.optimizer.warmup_steps, steps)};
    return {};
}

std::optional<Problem> check_pipeline(const ParallelSection& parallel, const ModelSection& model) {
    const int64_t chunks = parallel.pipeline * parallel.virtual_stages;
    if (parallel.virtual_stages > 1 && parallel.schedule != PipelineSchedule::interleaved)
        return Problem{"parallel.virtual_stages",
                       fmt::format("{}, but only the schedule interleaved has several chunks on a "
                                   "stage: set parallel.schedule=interleaved or "
                                   "parallel.virtual_stages=1",
                                   parallel.virtual_stages)};
    if (parallel.virtual_stages > 1 && parallel.pipeline == 1)
        return Problem{"parallel.virtual_stages",
                       fmt::format("{}, but there is one stage and nothing to interleave: set "
                                   "parallel.virtual_stages=1 or more parallel.pipeline",
                                   parallel.virtual_stages)};
    if (chunks > model.layers)
        return Problem{
            parallel.virtual_stages > 1 ? "parallel.virtual_stages" : "parallel.pipeline",
            fmt::format("{} stages x {} chunks need {} layers or more, but the model has {}",
                        parallel.pipeline, parallel.virtual_stages, chunks, model.layers)};
    const std::vector<int64_t>& layers = parallel.stage_layers;
    if (layers.empty()) return {};
    bool fits = static_cast<int64_t>(layers.size()) == chunks &&
                std::accumulate(layers.begin(), layers.end(), int64_t{0}) == model.layers;
    // The first stage has the embedding, the last one the head: they may be without layers.
    for (size_t i = 1; i + 1 < layers.size(); ++i)
        fits = fits && layers[i] > 0;
    if (fits) return {};
    return Problem{"parallel.stage_layers",
                   fmt::format("[{}] does not fit: {} numbers are needed (parallel.pipeline {} x "
                               "parallel.virtual_stages {}) with the sum {} (model.layers), each "
                               "at least 1, but 0 is allowed in the first and the last",
                               fmt::join(layers, ", "), chunks, parallel.pipeline,
                               parallel.virtual_stages, model.layers)};
}

std::optional<Problem> check_tokens(const RunConfig& config) {
    const int64_t context = config.parallel.context, tensor = config.parallel.tensor;
    const int64_t length = config.data.sequence_length;
    const int64_t multiple = std::lcm(parallel::context_multiple(context), context * tensor);
    CHECK(multiple > 0, "context {} and tensor {} are counts of ranks", context, tensor);
    if (length % multiple == 0) return {};
    return Problem{
        "data.sequence_length",
        fmt::format("parallel.context={} x parallel.tensor={} ranks cannot share {} "
                    "tokens evenly: take {} or another multiple of {}",
                    context, tensor, length, length / multiple * multiple + multiple, multiple)};
}

std::optional<Problem> check_tensor(const ParallelSection& parallel, const ModelSection& model) {
    const int64_t ranks = parallel.tensor;
    if (ranks == 1) return {};
    const auto undivided = [&](const char* what, int64_t extent) {
        return Problem{"parallel.tensor",
                       fmt::format("{} ranks cannot divide {} {}: use a number of ranks that does, "
                                   "or another {}",
                                   ranks, what, extent, what)};
    };
    if (model.heads % ranks != 0) return undivided("model.heads", model.heads);
    if (model.kv_heads % ranks != 0) return undivided("model.kv_heads", model.kv_heads);
    if (model.ffn_width % ranks != 0) return undivided("model.ffn_width", model.ffn_width);
    if (model.vocab_size < ranks)
        return Problem{"parallel.tensor",
                       fmt::format("{} ranks cannot share the {} rows of the token table: use "
                                   "fewer ranks",
                                   ranks, model.vocab_size)};
    return {};
}

std::optional<Problem> check_fp8(const RunConfig& config) {
    if (config.train.fp8 == Fp8Scaling::none) return {};
    constexpr int64_t multiple = 16;
    const ModelSection& m = config.model;
    const int64_t tensor = config.parallel.tensor, context = config.parallel.context;
    struct Extent {
        std::string what;
        int64_t value;
    };
    const std::string of_rank =
        tensor > 1 ? fmt::format(" / parallel.tensor {}", tensor) : std::string();
    const std::string tokens = "train.micro_batch x data.sequence_length";
    for (const auto& [what, value] :
         {Extent{"model.width", m.width},
          Extent{"(model.heads + 2 model.kv_heads) x model.head_width" + of_rank,
                 (m.heads + 2 * m.kv_heads) * m.head_width / tensor},
          Extent{"model.heads x model.head_width" + of_rank, m.heads * m.head_width / tensor},
          Extent{"model.ffn_width" + of_rank, m.ffn_width / tensor},
          Extent{context > 1 ? fmt::format("{} / parallel.context {}", tokens, context) : tokens,
                 config.train.micro_batch * config.data.sequence_length / context}})
        if (value % multiple != 0)
            return Problem{"train.fp8",
                           fmt::format("8-bit products need multiples of {}, but {} is {}; change "
                                       "that or set train.fp8=none",
                                       multiple, what, value)};
    return {};
}

std::optional<Problem> check_graphs(const RunConfig& config) {
    if (!config.run.graphs) return {};
    const auto refused = [](const std::string& what, const std::string& why) {
        return Problem{"run.graphs",
                       fmt::format("{}, but {}: change that or set run.graphs=false", what, why)};
    };
    const ParallelSection& parallel = config.parallel;
    if (const int64_t together = parallel.tensor * parallel.context * parallel.pipeline;
        together > 1)
        return refused(fmt::format("{} ranks share each micro-batch", together),
                       "graphs hold no exchange between ranks");
    if (config.optimizer.offload != OptimizerOffload::none)
        return refused("optimizer.offload is on", "graphs hold no work of the host");
    if (config.train.offload_activations)
        return refused("train.offload_activations is on",
                       "graphs hold no copies beside the stream");
    if (parallel.zero > 1)
        return refused(fmt::format("parallel.zero is {}", parallel.zero),
                       "from stage 2 on every micro-batch exchanges its gradients, and graphs hold "
                       "no exchange");
    if (parallel.wire_dtype != ComputeType::fp32)
        return refused("parallel.wire_dtype is not fp32",
                       "memory of gradients on their way is not a graph's own");
    return {};
}

std::optional<Problem> check_available(const ParallelSection& parallel) {
    if (parallel.zero == 3 && parallel.pipeline > 1)
        return Problem{"parallel.zero",
                       "3 shares weights that a pipeline would gather for each micro-batch of each "
                       "stage: with parallel.pipeline set parallel.zero to 2 at most"};
    return {};
}

}  // namespace plinth::launch
