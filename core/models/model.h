// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/nn/batch.h"
#include "core/nn/declaration.h"
#include "core/ops/cross_entropy.h"

namespace plinth::core::models {

/// Contiguous parts of a model between two cuts: an optional embedding, blocks, an optional head.
struct Parts {
    int64_t first_block = 0;
    int64_t blocks = 0;
    bool has_embedding = false;
    bool has_head = false;

    static Parts whole(int64_t blocks) { return {0, blocks, true, true}; }
    bool is_whole(int64_t all_blocks) const {
        return has_embedding && has_head && blocks == all_blocks;
    }
};

/// What is computed at once between two cuts of a model. Chunks pass one tensor x [B, T, D] in the
/// compute dtype on; the first one takes none, and the last one gives a loss.
struct Chunk {
    Parts parts;
    std::vector<Parameter*> parameters;
    /// Those of them whose gradient comes in the forward pass already (a head that makes logits and
    /// their gradient at once); the others have theirs in the backward pass.
    std::vector<Parameter*> forward_parameters;
    /// Of x, for a batch.
    std::function<Shape(const Batch&)> input_shape;
    /// The x of the next chunk; of all chunks but the last.
    std::function<Tensor(const Batch&, const Tensor& x)> forward;
    /// Sum of the losses of a micro-batch, and the integer weight (tokens) that the step divides
    /// by; of the last chunk.
    std::function<ops::Loss(const Batch&, const Tensor& x)> loss;
};

/// One loss and the parameters that it drives. A transformer has one phase, a GAN two; the training
/// loop iterates phases.
struct Phase {
    std::string name;
    /// What this model holds of it, in model order: all of it is one chunk.
    std::vector<Chunk> chunks;
    std::vector<Parameter*> parameters;

    /// Of a whole model.
    ops::Loss loss(const Batch& batch) const {
        CHECK(chunks.size() == 1 && chunks[0].parts.has_embedding && chunks[0].loss,
              "{}: this model is one stage of a pipeline: it has no loss of its own", name);
        return chunks[0].loss(batch, {});
    }
};

/// A trainable model, built by declaring parameters; it knows no rank.
class Model {
  public:
    virtual ~Model() = default;
    virtual nn::ParameterSet& parameters() = 0;
    virtual std::vector<Phase> phases() = 0;
};

}  // namespace plinth::core::models
