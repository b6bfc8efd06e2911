// SPDX-License-Identifier: Apache-2.0
#include "core/ops/cross_entropy.h"

#include <algorithm>

#include "core/autograd/scope.h"
#include "core/tensor/shapes.h"
#include "kernels/add.h"
#include "kernels/cast.h"
#include "kernels/cross_entropy.h"
#include "kernels/matmul.h"

namespace plinth::core::ops {

namespace {

kernels::CrossEntropy attributes_of(const CrossEntropyOptions& options) {
    return {.valid_columns = options.valid_columns, .z_loss = options.z_loss};
}

/// What the loss needs to know of each row: fp32 [rows] each.
struct RowValues {
    Tensor largest, sum, target_logit, log_sum;

    static RowValues of(int64_t rows) {
        const auto column = [&] { return Scope::current().empty({rows}, DType::f32); };
        return {column(), column(), column(), column()};
    }
    /// From what this rank's columns say to what the whole vocabulary says.
    void combine(const ColumnRanks& ranks) {
        Scope& scope = Scope::current();
        const int64_t rows = largest.elements();
        Tensor mine = scope.empty({3, rows}, DType::f32);
        const Tensor* values[] = {&largest, &sum, &target_logit};
        for (int64_t i = 0; i < 3; ++i) {
            Tensor row = mine.rows(i, i + 1);
            kernels::cast(row.out(), values[i]->in(), scope.stream());
        }
        const Tensor parts = ranks.gather(mine.reshape({3 * rows}));
        kernels::cross_entropy_combine(largest.out(), sum.out(), target_logit.out(),
                                       parts.reshape({parts.dim(0), 3, rows}).in(), scope.stream());
    }
    RowValues rows(int64_t begin, int64_t end) const {
        return {largest.rows(begin, end), sum.rows(begin, end), target_logit.rows(begin, end),
                log_sum.rows(begin, end)};
    }
    void look(const Tensor& logits, const Tensor& targets, const kernels::CrossEntropy& options) {
        kernels::cross_entropy_local(largest.out(), sum.out(), target_logit.out(), logits.in(),
                                     targets.in(), options, Scope::current().stream());
    }
    Loss finish(const Tensor& targets, const kernels::CrossEntropy& options) {
        const Scope& scope = Scope::current();
        Loss loss{.sum = scope.empty({1}, DType::f64),
                  .cross_entropy = scope.empty({1}, DType::f64),
                  .weight = scope.empty({1}, DType::i64),
                  .correct = scope.empty({1}, DType::i64)};
        kernels::cross_entropy_finish(loss.sum.out(), loss.cross_entropy.out(), loss.weight.out(),
                                      loss.correct.out(), log_sum.out(), largest.in(), sum.in(),
                                      target_logit.in(), targets.in(), options, scope.stream());
        return loss;
    }
};

}  // namespace

Loss cross_entropy(const Tensor& logits, const Tensor& targets,
                   const CrossEntropyOptions& options) {
    const Scope& scope = Scope::current();
    const Tensor matrix = as_matrix(logits);
    const kernels::CrossEntropy attributes = attributes_of(options);
    RowValues values = RowValues::of(matrix.dim(0));
    values.look(matrix, targets, attributes);
    Loss loss = values.finish(targets, attributes);
    if (!scope.tape()) return loss;
    scope.tape()->record(
        "cross_entropy", {&logits}, {&loss.sum},
        [logits = SavedTensor(logits), targets = SavedTensor(targets),
         log_sum = SavedTensor(values.log_sum), attributes](NodeGradients& gradients) mutable {
            Tensor dlogits = logits.take_for_writing("cross_entropy");
            Tensor flat = as_matrix(dlogits);
            kernels::cross_entropy_backward(
                flat.out(), gradients.of_output(0).in(), log_sum.get("cross_entropy").in(),
                targets.get("cross_entropy").in(), attributes, Scope::current().stream());
            gradients.set_input(0, std::move(dlogits));
        });
    return loss;
}

namespace {

/// The loss of x weight^T in chunks of rows; with gradients (dx, dweight) where `dx` is defined.
class ChunkedHead {
  public:
    ChunkedHead(const Tensor& x, Parameter& weight, const Tensor& targets,
                const CrossEntropyOptions& options)
        : x_(as_matrix(x)),
          parameter_(weight),
          weight_(weight.acquire(x.dtype())),
          targets_(targets.reshape({x_.dim(0)})),
          attributes_(attributes_of(options)),
          pads_columns_(options.pads_columns),
          ranks_(options.ranks),
          values_(RowValues::of(x_.dim(0))) {
        attributes_.first_column = weight.boxes()[0].offset[0];
        held_ = attributes_;
        held_.valid_columns = std::min(options.valid_columns, held_.first_column + weight_.dim(0));
        if (pads_columns_) weight_ = weight.padded(weight_);
    }
    ~ChunkedHead() { parameter_.release(); }
    ChunkedHead(const ChunkedHead&) = delete;
    ChunkedHead& operator=(const ChunkedHead&) = delete;

    void look() {
        for_chunks([&](int64_t begin, int64_t end) { look_at(begin, end); });
    }

    /// Whether dweight is one product, not a sum of those of several chunks.
    bool has_one_chunk() const { return x_.dim(0) <= logit_rows_on(x_.device().type); }

    /// dx [rows, D] in the dtype of x and dweight [V, D] in fp32, of the loss's sum; dweight is
    /// added to what is there if it `accumulates`, for which it must be one product.
    void differentiate(Tensor dx, View dweight, bool accumulates) {
        CHECK(!accumulates || has_one_chunk(), "{}: chunks of a head added to another slot's",
              parameter_.name());
        if (pads_columns_) dweight = parameter_.padded(dweight);
        Stream& stream = Scope::current().stream();
        Tensor one = Scope::current().empty({1}, DType::f32);
        kernels::fill(one.out(), 1.0f, stream);
        for_chunks([&](int64_t begin, int64_t end) {
            Tensor logits = look_at(begin, end), dx_rows = dx.rows(begin, end);
            const Tensor targets = targets_.rows(begin, end);
            RowValues values = values_.rows(begin, end);
            attributes_.first_row = begin;
            values.finish(targets, attributes_);
            kernels::cross_entropy_backward(logits.out(), one.in(), values.log_sum.in(),
                                            targets.in(), held_, stream);
            kernels::matmul(dx_rows.out(), logits.in(), weight_.in(), {}, {}, stream);
            kernels::matmul(dweight, logits.in(), x_.rows(begin, end).in(), {},
                            {.transpose_a = true, .accumulate = accumulates || begin > 0}, stream);
        });
        attributes_.first_row = 0;
    }

    Loss finish() { return values_.finish(targets_, attributes_); }

  private:
    template <typename Body>
    void for_chunks(Body&& body) const {
        const int64_t rows = logit_rows_on(x_.device().type);
        for (int64_t begin = 0; begin < x_.dim(0); begin += rows)
            body(begin, std::min(begin + rows, x_.dim(0)));
    }
    Tensor look_at(int64_t begin, int64_t end) {
        Scope& scope = Scope::current();
        Tensor logits = scope.empty({end - begin, weight_.dim(0)}, x_.dtype());
        kernels::matmul(logits.out(), x_.rows(begin, end).in(), weight_.in(), {},
                        {.transpose_b = true}, scope.stream());
        RowValues values = values_.rows(begin, end);
        values.look(logits, targets_.rows(begin, end), held_);
        if (ranks_) values.combine(*ranks_);
        return logits;
    }

    Tensor x_;
    Parameter& parameter_;
    Tensor weight_, targets_;
    kernels::CrossEntropy attributes_;  ///< of the whole vocabulary
    kernels::CrossEntropy held_;        ///< of the columns held here
    bool pads_columns_;
    const ColumnRanks* ranks_;
    RowValues values_;
};

}  // namespace

Loss linear_cross_entropy(const Tensor& x, WeightUse weight, const Tensor& targets,
                          const CrossEntropyOptions& options) {
    Scope& scope = Scope::current();
    const Shape w = weight.parameter.local_shape();
    CHECK(w.rank() == 2 && x.dim(-1) == w[1], "{}: input {} does not fit weight {}",
          weight.parameter.name(), x.shape().text(), w.text());
    CHECK(weight.parameter.is_whole() || options.ranks != nullptr,
          "{}: a part of a vocabulary without the ranks of the others", weight.parameter.name());
    CHECK(weight.parameter.boxes().size() == 1, "{}: a head of {} boxes", weight.parameter.name(),
          weight.parameter.boxes().size());
    ChunkedHead head(x, weight.parameter, targets, options);
    if (!scope.tape()) {
        head.look();
        return head.finish();
    }
    Tensor dx = scope.empty(x.shape(), x.dtype());
    // The sum of several chunks is finished before it is added to that of other slots.
    if (head.has_one_chunk())
        weight.parameter.accumulate_gradient(weight.use, [&](View sum, bool accumulates) {
            head.differentiate(as_matrix(dx), sum, accumulates);
        });
    else
        weight.parameter.add_gradient(weight.use, [&](View dweight) {
            head.differentiate(as_matrix(dx), dweight, /*accumulates=*/false);
        });
    Loss loss = head.finish();
    scope.tape()->record(
        "linear_cross_entropy", {&x}, {&loss.sum}, [dx](NodeGradients& gradients) mutable {
            // On a device it would have to be waited for; while work is captured nothing is there.
            const Tensor& root = gradients.of_output(0);
            const bool is_there =
                root.device().type == DeviceType::cpu && !Scope::current().stream().is_capturing();
            CHECK(!is_there || *root.data<float>() == 1.0f,
                  "linear_cross_entropy: the loss must be a root of the backward "
                  "pass with a gradient of 1");
            gradients.set_input(0, std::move(dx));
        });
    return loss;
}

}  // namespace plinth::core::ops
