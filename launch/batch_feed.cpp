// SPDX-License-Identifier: Apache-2.0
#include "launch/batch_feed.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <utility>

namespace plinth::launch {

using core::Batch;
using core::Tensor;
using core::data::MicroBatch;

namespace {

constexpr size_t cache_line = 64;

/// Tensors of a batch in one order; undefined where it has none.
std::array<Tensor*, 5> tensors_of(Batch& batch) {
    return {&batch.tokens, &batch.targets, &batch.positions, &batch.document_ids,
            &batch.sample_ids};
}

/// What goes into them, in the same order.
std::array<std::span<const std::byte>, 5> contents_of(const MicroBatch& loaded) {
    return {std::as_bytes(std::span(loaded.inputs)), std::as_bytes(std::span(loaded.targets)),
            std::as_bytes(std::span(loaded.positions)),
            std::as_bytes(std::span(loaded.document_ids)),
            std::as_bytes(std::span(loaded.sample_ids))};
}

size_t aligned(size_t bytes) {
    return (bytes + cache_line - 1) / cache_line * cache_line;
}

}  // namespace

BatchFeed::~BatchFeed() {
    try {
        engine_->synchronize();
    } catch (...) {  // the device's error was reported where it was found
    }
}

bool BatchFeed::Place::is_held() const {
    for (const Tensor* tensor :
         {&batch.tokens, &batch.targets, &batch.positions, &batch.document_ids, &batch.sample_ids})
        if (tensor->defined() && !tensor->is_sole_owner()) return true;
    return false;
}

Batch BatchFeed::operator()(const MicroBatch& loaded) {
    while (!staged_.empty() && staged_.front().is_done())
        staged_.pop_front();
    Place& place = free_place(loaded);
    copy(place.batch, loaded);
    engine_->hold_stream();
    Batch batch = place.batch;  // held from here on
    free_places();
    return batch;
}

BatchFeed::Place& BatchFeed::free_place(const MicroBatch& loaded) {
    const Shape shape{loaded.rows, loaded.length};
    const auto free =
        std::ranges::find_if(places_, [](const auto& place) { return place->is_free; });
    Place& place =
        free != places_.end() ? **free : *places_.emplace_back(std::make_unique<Place>());
    place.is_free = false;
    if (place.batch.tokens.defined() && place.batch.tokens.shape() == shape) return place;
    const auto empty = [this](const Shape& dims, DType dtype) {
        return Tensor::empty(dims, dtype, memory_.batches);
    };
    place.batch = {.tokens = empty(shape, DType::i32),
                   .targets = empty(shape, DType::i32),
                   .positions = empty(shape, DType::i32),
                   .document_ids = document_mask_ ? empty(shape, DType::i32) : Tensor{},
                   .sample_ids = empty({loaded.rows}, DType::i64)};
    engine_->wait_for_stream();  // which may still work on what this memory held
    return place;
}

void BatchFeed::copy(Batch& batch, const MicroBatch& loaded) {
    const auto tensors = tensors_of(batch);
    const auto contents = contents_of(loaded);
    size_t bytes = 0;
    for (size_t i = 0; i < tensors.size(); ++i) {
        if (!tensors[i]->defined()) continue;
        CHECK(contents[i].size() == std::as_const(*tensors[i]).in().bytes(),
              "a micro-batch of {} x {} with {} bytes for a tensor of {}", loaded.rows,
              loaded.length, contents[i].size(), tensors[i]->shape().text());
        bytes += aligned(contents[i].size());
    }
    Staged& staged = staged_.emplace_back();
    staged.words =
        Tensor::empty({static_cast<int64_t>(bytes / sizeof(int64_t))}, DType::i64, memory_.pinned);
    auto* at = static_cast<std::byte*>(staged.words.out().data);
    for (size_t i = 0; i < tensors.size(); ++i) {
        if (!tensors[i]->defined()) continue;
        std::memcpy(at, contents[i].data(), contents[i].size());
        engine_->copy(tensors[i]->out().data, at, contents[i].size());
        at += aligned(contents[i].size());
    }
    staged.event = engine_->record();
}

/// What nobody holds any more was read by work that the stream has been given by now: copies come
/// after it, and therefore beside the work that follows.
void BatchFeed::free_places() {
    engine_->wait_for_stream();
    for (const auto& place : places_)
        if (!place->is_held()) place->is_free = true;
}

}  // namespace plinth::launch
