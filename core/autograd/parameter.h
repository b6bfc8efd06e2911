// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/tensor/shard.h"
#include "core/tensor/tensor.h"
#include "kernels/runtime/function_ref.h"

namespace plinth::core {

class Parameter;

/// How a parameter's elements begin, as a function of the global element index: the same for every
/// layout.
struct Init {
    enum class Kind { zeros, ones, normal } kind = Kind::zeros;
    double stddev = 0.0;
    static Init zeros() { return {Kind::zeros, 0.0}; }
    static Init ones() { return {Kind::ones, 0.0}; }
    static Init normal(double stddev) { return {Kind::normal, stddev}; }
};

/// Where finished weight gradients go. A use is one place in the model where the parameter is
/// multiplied (a tied embedding has two); each use has its own total, and they are added once at
/// the end of the step (docs/numerics.md).
class GradientSink {
  public:
    virtual ~GradientSink() = default;
    /// Calls `product(dweight)` once; it must overwrite every element of the fp32 view (the
    /// parameter's local shape) with the finished gradient of this micro-batch slot. Behind it is
    /// room for the padded shape, where nothing but zeros may be written.
    virtual void add(Parameter& parameter, int use, FunctionRef<void(View dweight)> product) = 0;
    /// The same for a product that can add: where `accumulates`, it must finish the gradient of
    /// this slot and add it to every element of the view once, else overwrite them. On a stream
    /// that is not reproducible a device may add within its product (docs/gpu.md).
    virtual void accumulate(Parameter& parameter, int use,
                            FunctionRef<void(View sum, bool accumulates)> product) {
        add(parameter, use, [&](View dweight) { product(dweight, false); });
    }
};

/// Where the weights of a parameter are while operations read them, for parameters that do not keep
/// all of them in one place.
class WeightSource {
  public:
    virtual ~WeightSource() = default;
    /// All of the parameter's local memory in `dtype`, which is parameter.read_as(compute dtype),
    /// and behind it zeros up to the padded shape; valid until as many releases as acquires have
    /// followed.
    virtual const Tensor& acquire(Parameter& parameter, DType dtype) = 0;
    virtual void release(Parameter& parameter) = 0;
};

/// A learned tensor: a handle that models and nodes keep, never its storage. Storage appears when
/// the layout is known.
class Parameter {
  public:
    struct Spec {
        std::string name;  ///< full path, e.g. "blocks.0.attention.qkv.weight"
        Shape shape;       ///< global
        Init init;
        bool decay =
            true;  ///< weight decay applies (matrices and embeddings, not biases and norms)
        /// Products may want rows up to a multiple of it: see Parameter::padded_shape.
        int64_t row_multiple = 1;
    };

    /// A shape of no dims is an internal error.
    explicit Parameter(Spec spec);
    Parameter(const Parameter&) = delete;
    Parameter& operator=(const Parameter&) = delete;

    const std::string& name() const { return spec_.name; }
    const Shape& shape() const { return spec_.shape; }
    const Spec& spec() const { return spec_; }
    /// The boxes of the global tensor that this rank holds, stacked along dim 0 in its memory. One,
    /// but for the rows of a product that makes several things (q, k and v; gate and up), of each
    /// of which every rank of a tensor group holds a part.
    std::span<const Shard> boxes() const { return boxes_; }
    bool is_whole() const { return boxes_.size() == 1 && boxes_[0].is_whole(); }
    /// Of the stack of boxes.
    Shape local_shape() const;
    int64_t local_elements() const { return local_shape().elements(); }
    /// The local shape with rows up to spec().row_multiple: what memory for its weights and its
    /// gradients has room for. The rows behind the local ones are zeros for products that want
    /// such; they belong to no shard, no count and no checkpoint.
    Shape padded_shape() const;
    /// Elements of that on the rank that holds the most, which may be another one where the rows of
    /// a table cannot be shared evenly. What ranks must place alike goes by this.
    int64_t room() const;
    /// Weights in memory with room for the padded shape, which the caller keeps alive.
    Tensor weights_at(void* data, DType dtype, Device device) const;
    /// What `acquire` gave, or a view for a gradient, with the rows behind.
    Tensor padded(const Tensor& weights) const;
    View padded(View gradient) const;
    /// The dtype in which operations read it: matrices and tables in that of the computation,
    /// vectors (biases and norms) in fp32.
    DType read_as(DType compute) const { return shape().rank() > 1 ? compute : DType::f32; }
    /// Takes other boxes, which must agree in all dims but the first, before there is storage.
    /// `most_rows` are those of the rank that holds the most, where that is another one.
    void place(std::vector<Shard> boxes, int64_t most_rows = 0);

    /// True where every rank of a tensor group holds all of it, and each gives it the gradient of
    /// its own tokens or heads: the sum over that group is the gradient.
    bool gradient_is_partial() const { return gradient_is_partial_; }
    void set_gradient_partial() { gradient_is_partial_ = true; }

    /// True for the weight of a product that may be made of 8-bit floats, where the scope says so.
    bool takes_fp8() const { return takes_fp8_; }
    void set_takes_fp8() { takes_fp8_ = true; }

    /// Declares one more use; returns its index.
    int add_use() { return uses_++; }
    int uses() const { return uses_; }

    /// Gives the parameter its fp32 master weights, behind which are zeros up to the padded shape.
    void materialize(Tensor master);
    void set_sink(GradientSink* sink) { sink_ = sink; }
    GradientSink* sink() const { return sink_; }
    /// Takes weights from there; null: from its own master weights.
    void set_source(WeightSource* source) { source_ = source; }
    bool is_materialized() const { return master_.defined() || source_ != nullptr; }

    /// fp32 master weights; writing to them must be followed by `changed()`. Undefined where a
    /// source has the weights.
    Tensor& master() { return master_; }
    /// Counts optimizer steps and restores: derived copies are cached by it.
    void changed() { ++version_; }
    uint64_t version() const { return version_; }

    /// The weights in `dtype`, valid until `release`: each acquire is followed by one. A derived
    /// copy is made at most once a version. `padded` gives the rows behind them.
    const Tensor& acquire(DType dtype);
    void release();
    /// Acquires that were not released yet.
    int readers() const { return readers_; }

    /// Hands over the finished gradient of one use of one micro-batch; see GradientSink::add.
    void add_gradient(int use, FunctionRef<void(View dweight)> product);
    /// The same of a product that can add it to what is there; see GradientSink::accumulate.
    void accumulate_gradient(int use, FunctionRef<void(View sum, bool accumulates)> product);

  private:
    int64_t padded_rows(int64_t rows) const;

    Spec spec_;
    std::vector<Shard> boxes_;
    int64_t most_rows_ = 0;
    bool gradient_is_partial_ = false;
    bool takes_fp8_ = false;
    int uses_ = 0;
    Tensor master_;
    GradientSink* sink_ = nullptr;
    WeightSource* source_ = nullptr;
    int readers_ = 0;
    uint64_t version_ = 1;
    Tensor derived_;
    uint64_t derived_version_ = 0;
};

}  // namespace plinth::core
