// SPDX-License-Identifier: Apache-2.0
#include "core/data/loader.h"

#include <algorithm>
#include <chrono>
#include <deque>

#include "kernels/runtime/error.h"

namespace plinth::core::data {
namespace {

/// True when the source gives samples from the next one on.
bool is_needed(const Sampler& sampler, size_t number) {
    const SamplerState& state = sampler.state();
    const int64_t next_sample = sampler.sample_at(state.consumed);
    for (size_t i = 0; i < state.segments.size(); ++i) {
        // A later segment that begins at or before the next sample hides this one.
        const bool past =
            i + 1 < state.segments.size() && state.segments[i + 1].start <= next_sample;
        const auto& shares = state.segments[i].shares;
        if (!past && number < shares.size() && shares[number] > 0) return true;
    }
    return false;
}

std::vector<std::shared_ptr<const Source>> by_number(
    const std::vector<std::shared_ptr<const Source>>& sources, const Sampler& sampler) {
    const SamplerState& state = sampler.state();
    std::vector<std::shared_ptr<const Source>> ordered(state.sources.size());
    for (const auto& source : sources) {
        const BlendSource found = source->describe();
        for (size_t number = 0; number < state.sources.size(); ++number) {
            const SourceRecord& record = state.sources[number];
            if (record.name != found.name) continue;
            REQUIRE(config,
                    record ==
                        SourceRecord({found.name, found.units, found.examples, found.fingerprint}),
                    "source '{}' has {} units and fingerprint '{}', but the run recorded {} and "
                    "'{}': restore it, or give the new content a new name",
                    found.name, found.units, found.fingerprint, record.units, record.fingerprint);
            ordered[number] = source;
        }
    }
    for (size_t number = 0; number < ordered.size(); ++number)
        REQUIRE(config, ordered[number] || !is_needed(sampler, number),
                "source '{}' is in the run's blend, but its data is not there",
                state.sources[number].name);
    return ordered;
}

/// Cuts a sample into rows: positions and ids begin at 0 in each.
void cut_rows(std::span<int32_t> positions, std::span<int32_t> ids, size_t length) {
    for (size_t row = 0; row < positions.size(); row += length) {
        const int32_t first_id = ids[row], first_position = positions[row];
        for (size_t t = row; t < row + length; ++t) {
            if (ids[t] == first_id) positions[t] -= first_position;
            ids[t] -= first_id;
        }
    }
}

}  // namespace

int64_t padded_length(int64_t used, int64_t window) {
    int64_t length = 64;
    while (length < used)
        length *= 2;
    return std::min(length, window);
}

void cut_padding(MicroBatch& batch) {
    const auto before = static_cast<size_t>(batch.length);
    size_t used = 0;
    for (size_t i = 0; i < batch.document_ids.size(); ++i)
        if (batch.document_ids[i] != kPaddingDocument) used = std::max(used, i % before + 1);
    batch.length = padded_length(static_cast<int64_t>(used), batch.length);
    const auto after = static_cast<size_t>(batch.length);
    for (auto* values : {&batch.inputs, &batch.targets, &batch.positions, &batch.document_ids}) {
        for (size_t row = 1; row < values->size() / before; ++row)
            std::copy_n(values->begin() + static_cast<ptrdiff_t>(row * before), after,
                        values->begin() + static_cast<ptrdiff_t>(row * after));
        values->resize(values->size() / before * after);
    }
}

void LoaderConfig::validate() const {
    REQUIRE(config, threads >= 1 && threads <= 256,
            "the loader reads with 1 to 256 threads, got {}", threads);
    REQUIRE(config, depth >= 1 && depth <= 65536, "data.prefetch: 1 to 65536 are possible, got {}",
            depth);
}

NextRequest requests_of(std::function<std::optional<StepSlots>(int64_t step)> plan, int64_t step) {
    auto waiting = std::make_shared<std::deque<MicroBatchRequest>>();
    return [plan = std::move(plan), step, waiting]() mutable -> std::optional<MicroBatchRequest> {
        while (waiting->empty()) {
            const std::optional<StepSlots> slots = plan(step);
            if (!slots) return std::nullopt;
            for (const int64_t slot : slots->slots)
                waiting->push_back({.step = step,
                                    .slot = slot,
                                    .first = slots->first + slot * slots->micro_batch,
                                    .samples = slots->micro_batch,
                                    .length = slots->length});
            ++step;
        }
        const MicroBatchRequest request = waiting->front();
        waiting->pop_front();
        return request;
    };
}

Loader::Loader(const std::vector<std::shared_ptr<const Source>>& sources,
               std::shared_ptr<const Sampler> sampler, LoaderConfig config,
               NextRequest next_request)
    : sources_(by_number(sources, *sampler)),
      sampler_(std::move(sampler)),
      config_(config),
      next_request_(std::move(next_request)) {
    config_.validate();
    ring_.resize(static_cast<size_t>(config_.depth));
    for (int i = 0; i < config_.threads; ++i)
        threads_.emplace_back([this] { work(); });
}

Loader::~Loader() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
    }
    space_.notify_all();
    for (std::thread& thread : threads_)
        thread.join();
}

/// A thread takes the next request and its place in the ring under the lock, so that the order of
/// the requests is the order of the ring, and reads without the lock.
void Loader::work() {
    std::unique_lock lock(mutex_);
    for (;;) {
        space_.wait(lock, [&] {
            return stop_ || last_issued_ || issued_ < taken_ + static_cast<int64_t>(ring_.size());
        });
        if (stop_ || last_issued_) return;
        Cell& mine = cell(issued_++);
        std::exception_ptr error;
        std::optional<MicroBatch> batch;
        try {
            if (const std::optional<MicroBatchRequest> request = next_request_()) {
                lock.unlock();
                batch = load(*request);
            }
        } catch (...) {
            error = std::current_exception();
        }
        if (!lock.owns_lock()) lock.lock();
        if (!batch) {  // the end, or an error: nothing after it is handed out
            last_issued_ = true;
            space_.notify_all();
        }
        mine.batch = std::move(batch);
        mine.error = error;
        mine.ready = true;
        ready_.notify_all();
    }
}

std::optional<MicroBatch> Loader::next() {
    std::unique_lock lock(mutex_);
    Cell& first = cell(taken_);
    if (!first.ready) {
        const auto begin = std::chrono::steady_clock::now();
        ready_.wait(lock, [&] { return first.ready; });
        waited_seconds_ +=
            std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
    if (first.error) std::rethrow_exception(first.error);
    if (!first.batch) return std::nullopt;
    std::optional<MicroBatch> batch = std::move(first.batch);
    first = Cell{};
    ++taken_;
    space_.notify_one();
    return batch;
}

MicroBatch Loader::load(const MicroBatchRequest& request) const {
    const int64_t window = sampler_->state().window;
    const int64_t length = request.length == 0 ? window : request.length;
    CHECK(length > 0 && window % length == 0, "rows of {} tokens from samples of {}", length,
          window);
    CHECK(request.samples > 0 && request.first >= 0, "{} samples from {}", request.samples,
          request.first);
    MicroBatch batch{.step = request.step, .slot = request.slot};
    batch.rows = request.samples * (window / length);
    batch.length = length;
    const auto size = static_cast<size_t>(request.samples * window);
    for (auto* values : {&batch.inputs, &batch.targets, &batch.positions, &batch.document_ids})
        values->resize(size);

    bool only_examples = length == window;
    for (int64_t i = 0; i < request.samples; ++i) {
        const SampleRef ref = sampler_->locate(sampler_->sample_at(request.first + i));
        const auto part = [&](std::vector<int32_t>& values) {
            return std::span(values).subspan(static_cast<size_t>(i * window),
                                             static_cast<size_t>(window));
        };
        const SampleView view{part(batch.inputs), part(batch.targets), part(batch.positions),
                              part(batch.document_ids)};
        const auto& source = sources_[static_cast<size_t>(ref.source)];
        CHECK(source, "sample {} is of source '{}', which is not in the blend", ref.sample,
              sampler_->state().sources[static_cast<size_t>(ref.source)].name);
        source->fill(ref, config_.document_mask, view);
        only_examples &= sampler_->state().sources[static_cast<size_t>(ref.source)].examples;
        if (length < window)
            cut_rows(view.positions, view.document_ids, static_cast<size_t>(length));
        batch.samples.push_back(ref);
        for (int64_t row = 0; row < window / length; ++row)
            batch.sample_ids.push_back(ref.sample * (window / length) + row);
    }
    batch.loss_tokens = static_cast<int64_t>(size) -
                        std::count(batch.targets.begin(), batch.targets.end(), kIgnoredTarget);
    if (only_examples) cut_padding(batch);
    return batch;
}

}  // namespace plinth::core::data
