// SPDX-License-Identifier: Apache-2.0
// A head whose products take rows of zeros behind its weight, over thread ranks: next to the same
// head without them, in every ZeRO stage and where ranks share the vocabulary unevenly.
#include <gtest/gtest.h>

#include <map>

#include "core/nn/init.h"
#include "core/nn/linear.h"
#include "core/ops/cast.h"
#include "core/ops/cross_entropy.h"
#include "parallel/comm/threads.h"
#include "parallel/data_parallel/lane_reducer.h"
#include "parallel/tensor_parallel/tensor_layout.h"
#include "parallel/zero/weights.h"
#include "tests/support/op_fixture.h"
#include "tests/support/surroundings.h"

namespace plinth::test {
namespace {

using core::Parameter;
using core::Tensor;
using core::nn::Placement;
using parallel::Communicator;

constexpr int64_t vocabulary = 85, width = 24, tokens = 13, slots = 4;

struct Case {
    int data = 1, tensor = 1, zero = 0;
    DType compute = DType::f32;
    int64_t multiple = 64;  ///< more rows than the room up to a block's end
    bool pads_columns = true;
};

/// By what it is of: of each rank's part, in the order of its elements.
using Values = std::map<std::string, std::vector<double>>;

void append(std::vector<double>& all, ConstView part) {
    all.insert(all.end(), part.as<float>(), part.as<float>() + part.elements());
}

/// One rank of a run of two steps. Beside the head, which lies between them in the buffer of the
/// gradients, two parameters get the gradient 1 in every slot.
class Rank {
  public:
    Rank(Communicator& comm, const Case& c)
        : case_(c),
          tensor_(comm.split(comm.rank() / c.tensor, "tensor")),
          data_(comm.split(comm.rank() % c.tensor, "data")),
          layout_({{"before", Placement::alike},
                   {"head", Placement::head, {vocabulary}},
                   {"after", Placement::alike}},
                  *tensor_),
          before_(root() / "before", width, 5, false, 0.5),
          head_(root() / "head", width, vocabulary, false, 0.5, c.multiple),
          after_(root() / "after", width, 70, false, 0.5),
          reducer_(parameters_.all(), *data_, around_.allocator, around_.stream,
                   {.bucket_bytes = 8192,
                    .share = c.zero == 0   ? parallel::GradientShare::whole
                             : c.zero == 1 ? parallel::GradientShare::totals
                                           : parallel::GradientShare::owned_only}),
          weights_(parallel::make_weights(parameters_.all(), reducer_.layout(), *data_,
                                          around_.allocator, around_.stream,
                                          {.zero = c.zero, .compute = c.compute})) {}

    Values run() {
        for (core::optim::MasterWeights master : weights_->masters())
            core::nn::initialize(*master.range.parameter, master.range.begin, master.weights.out(),
                                 /*seed=*/3, around_.stream);
        for (int step = 0; step < 2; ++step) {
            announce();
            const parallel::LanePlan plan{slots, case_.zero < 2 ? 2 : slots, data_->size()};
            reducer_.begin_step(plan);
            for (const int64_t slot : plan.slots_of(data_->rank()))
                run_slot(slot);
            reducer_.finish();
            update();
        }
        announce();
        return std::move(values_);
    }

  private:
    core::nn::Declaration root() { return core::nn::Declaration(parameters_, layout_); }

    /// Operations see the masters from here on, and zeros behind them.
    void announce() {
        weights_->masters_changed();
        const core::Scope scope(around_.settings());
        weights_->begin_micro_batch(data_->size());
        for (Parameter* parameter : parameters_.all()) {
            const Tensor weights = parameter->acquire(case_.compute);
            const Tensor padded = parameter->padded(weights);
            CHECK(padded.shape() == parameter->padded_shape() &&
                      padded.in().data == weights.in().data,
                  "{} with rows behind is {}", parameter->name(), padded.shape().text());
            const int64_t rows = weights.dim(0);
            for (const double value : to_doubles(padded.rows(rows, padded.dim(0))))
                CHECK(value == 0.0, "{}: {} behind its rows", parameter->name(), value);
            parameter->release();
        }
        weights_->end_micro_batch();
    }

    void run_slot(int64_t slot) {
        const auto one = [&](View dweight) {
            std::fill_n(dweight.as<float>(), dweight.elements(), 1.0f);
        };
        Tensor x = Tensor::of(random_values(tokens * width, fmt::format("x {}", slot)),
                              {tokens, width}, around_.allocator);
        std::vector<int32_t> targets;
        for (int64_t t = 0; t < tokens; ++t)
            targets.push_back(t % 5 == 3 ? -100
                                         : static_cast<int32_t>((t * 31 + slot * 7) % vocabulary));
        weights_->begin_micro_batch(data_->size());
        reducer_.begin_slot(slot);
        core::Tape tape;
        const core::Scope scope({.stream = &around_.stream,
                                 .allocator = &around_.allocator,
                                 .tape = &tape,
                                 .step = &around_.step,
                                 .compute = case_.compute});
        if (case_.compute == DType::bf16) x = core::ops::cast(x, DType::bf16);
        tape.watch(x);
        before_.weight().parameter.add_gradient(0, one);
        const core::ops::Loss loss = core::ops::linear_cross_entropy(
            x, head_.weight(), Tensor::of(targets, {tokens}, around_.allocator),
            {.valid_columns = vocabulary,
             .z_loss = 1e-2,
             .ranks = head_.columns(),
             .pads_columns = case_.pads_columns});
        after_.weight().parameter.add_gradient(0, one);
        const auto dx = tape.backward({{loss.sum, around_.tensor({1.0f})}}, {&x, 1});
        reducer_.end_slot();
        weights_->end_micro_batch();
        values_["loss"].push_back(*loss.sum.data<double>());
        for (const double value : to_doubles(dx[0]))
            values_["dx"].push_back(value);
    }

    /// A step down the gradient of what the rank owns.
    void update() {
        weights_->settle();
        std::map<std::pair<const Parameter*, int64_t>, ConstView> gradients;
        for (const auto& [parameter, gradient, begin] : reducer_.gradients()) {
            append(values_["gradient of " + parameter->name()], gradient);
            gradients[{parameter, begin}] = gradient;
        }
        for (core::optim::MasterWeights master : weights_->masters()) {
            const ConstView gradient = gradients.at({master.range.parameter, master.range.begin});
            float* weights = master.weights.data<float>();
            for (int64_t i = 0; i < gradient.elements(); ++i)
                weights[i] -= 0.05f * gradient.as<float>()[i];
            append(values_["weight " + master.range.parameter->name()], master.weights.in());
        }
    }

    Case case_;
    Surroundings around_{1};
    std::unique_ptr<Communicator> tensor_, data_;
    parallel::TensorLayout layout_;
    core::nn::ParameterSet parameters_;
    core::nn::Linear before_, head_, after_;
    parallel::LaneReducer reducer_;
    std::unique_ptr<parallel::Weights> weights_;
    Values values_;
};

std::vector<Values> run(const Case& c) {
    std::vector<Values> ranks(static_cast<size_t>(c.data * c.tensor));
    parallel::run_as_threads(c.data * c.tensor, [&](Communicator& comm) {
        ranks[static_cast<size_t>(comm.rank())] = Rank(comm, c).run();
    });
    return ranks;
}

/// All that they find but the order of sums over columns.
void expect_same(const Case& c, const std::vector<Values>& padded,
                 const std::vector<Values>& plain) {
    const double tolerance = c.compute == DType::f32 ? 2e-6 : 2e-3;
    for (size_t rank = 0; rank < plain.size(); ++rank)
        for (const auto& [name, expected] : plain[rank]) {
            const std::vector<double>& found = padded[rank].at(name);
            ASSERT_EQ(found.size(), expected.size())
                << name << " of rank " << rank << ", data " << c.data << ", tensor " << c.tensor
                << ", zero " << c.zero;
            if (name.find("head") == std::string::npos && name != "loss" && name != "dx")
                EXPECT_EQ(found, expected) << name << " of rank " << rank;
            else
                EXPECT_LE(norm_error(found, expected), tolerance)
                    << name << " of rank " << rank << ", zero " << c.zero;
        }
}

TEST(PaddedHead, RowsBehindTheWeightChangeNothing) {
    for (const DType compute : {DType::f32, DType::bf16})
        for (int zero = 0; zero <= 3; ++zero)
            for (const auto& [data, tensor] :
                 std::vector<std::pair<int, int>>{{1, 1}, {2, 1}, {1, 2}, {1, 3}, {2, 3}}) {
                Case c{.data = data, .tensor = tensor, .zero = zero, .compute = compute};
                const std::vector<Values> padded = run(c);
                EXPECT_GT(padded[0].at("loss").at(0), 1.0);
                c.pads_columns = false;
                expect_same(c, padded, run(c));
            }
}

/// On CPUs products do not read them: where ranks own the same elements no bit depends on them.
TEST(PaddedHead, MemoryAloneChangesNoBit) {
    for (const DType compute : {DType::f32, DType::bf16})
        for (const int tensor : {1, 3}) {
            const Case c{.tensor = tensor, .compute = compute, .pads_columns = false};
            Case plain = c;
            plain.multiple = 1;
            EXPECT_EQ(run(c), run(plain));
        }
}

}  // namespace
}  // namespace plinth::test
