// SPDX-License-Identifier: Apache-2.0
#include "launch/training_state.h"

#include "launch/sampler_text.h"

namespace plinth::launch {

namespace {

constexpr const char* algorithms_blob = "matmul_algorithms";
constexpr const char* fp8_blob = "fp8_history";

std::string blob_or_nothing(const checkpoints::Manifest& manifest, const char* name) {
    const auto found = manifest.blobs.find(name);
    return found == manifest.blobs.end() ? "" : found->second;
}

}  // namespace

void TrainingState::store(checkpoints::Manifest& manifest) const {
    manifest.counters["seed"] = static_cast<int64_t>(step.seed);
    manifest.counters["steps"] = step.step;
    manifest.counters["updates"] = step.update_count;
    manifest.counters["consumed_samples"] = sampler.consumed;
    manifest.counters["consumed_tokens"] = consumed_tokens;
    manifest.counters["skipped_steps"] = skipped_steps;
    manifest.blobs["sampler"] = to_text(sampler);
    if (!matmul_algorithms.empty()) manifest.blobs[algorithms_blob] = matmul_algorithms;
    if (!fp8_history.empty()) manifest.blobs[fp8_blob] = fp8_history;
}

void TrainingState::restore(const checkpoints::Manifest& manifest, const std::string& where) {
    run_id = manifest.run_id;
    step.seed = static_cast<uint64_t>(manifest.counter("seed"));
    step.step = manifest.counter("steps");
    step.update_count = manifest.counter("updates");
    consumed_tokens = manifest.counter("consumed_tokens");
    skipped_steps = manifest.counter("skipped_steps");
    sampler = sampler_state(manifest.blob("sampler"), where);
    matmul_algorithms = blob_or_nothing(manifest, algorithms_blob);
    fp8_history = blob_or_nothing(manifest, fp8_blob);
}

std::string weight_name(const core::Parameter& parameter) {
    return "model." + parameter.name();
}

bool is_moment(const std::string& name) {
    return name.starts_with("optimizer.");
}

std::vector<core::StateTensor> state_tensors(const std::vector<core::Parameter*>& parameters) {
    std::vector<core::StateTensor> tensors;
    for (core::Parameter* parameter : parameters)
        core::optim::append_state(tensors, weight_name(*parameter),
                                  core::optim::ParameterRange::whole(*parameter),
                                  parameter->master().out());
    return tensors;
}

}  // namespace plinth::launch
