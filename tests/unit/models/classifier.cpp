// SPDX-License-Identifier: Apache-2.0
#include "core/models/classifier.h"

#include <cmath>

#include "core/nn/init.h"
#include "tests/support/expect_error.h"
#include "tests/support/op_fixture.h"

namespace plinth::test {
namespace {

using core::Batch;
using core::Parameter;
using core::Tensor;
using core::models::Classifier;
using core::models::Transformer;
using core::models::TransformerConfig;

TransformerConfig tiny(bool tied) {
    TransformerConfig config{.vocab_size = 11,
                             .layers = 2,
                             .width = 8,
                             .heads = 2,
                             .kv_heads = 2,
                             .head_width = 4,
                             .ffn_width = 16,
                             .max_positions = 6};
    config.activation = TransformerConfig::Activation::gelu_tanh;
    config.tied_head = tied;
    config.init_stddev = 0.3;
    return config;
}

class ClassifierTest : public OpTest {
  protected:
    ClassifierTest() : sink_of_model_(*allocator_) {}

    Classifier& build(bool tied = true) {
        model_ = std::make_unique<Classifier>(tiny(tied), 3);
        for (Parameter* parameter : model_->parameters().all()) {
            parameter->materialize(Tensor::empty(parameter->shape(), DType::f32, *allocator_));
            parameter->set_sink(&sink_of_model_);
            core::nn::initialize(*parameter, 5, stream_);
        }
        return *model_;
    }

    /// Three samples of 4, 2 and 6 tokens in rows of 6; padding is another document.
    Batch batch(int32_t padding = 0) {
        const auto p = padding;
        return {
            .tokens = indices({1, 2, 3, 4, p, p, 5, 6, p, p, p, p, 7, 8, 9, 10, 1, 2}, {3, 6}),
            .targets = indices({-100, -100, -100, 2, -100, -100, -100, 0, -100, -100, -100, -100,
                                -100, -100, -100, -100, -100, 1},
                               {3, 6}),
            .positions = indices({0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5}, {3, 6}),
            .document_ids = indices({0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0}, {3, 6}),
            .sample_ids = Tensor::of(std::vector<int64_t>{0, 1, 2}, {3}, *allocator_)};
    }

    core::Scope::Settings settings(core::Tape* tape = nullptr) {
        return {.stream = &stream_, .allocator = allocator_.get(), .tape = tape, .step = &step_};
    }

    double loss(const Batch& b) {
        const core::Scope scope(settings());
        return *model_->loss(b).sum.in().as<double>();
    }

    void backward(const Batch& b) {
        core::Tape tape;
        const core::Scope scope(settings(&tape));
        const auto sum = model_->loss(b).sum;
        tape.backward({{sum, tensor({1.0f}, {1})}});
    }

    GradientMap sink_of_model_;
    std::unique_ptr<Classifier> model_;
};

TEST_F(ClassifierTest, LossIsTheLogSumOfEachSamplesLogits) {
    build();
    const Batch b = batch();
    const core::Scope scope(settings());
    const auto logits = to_doubles(model_->logits(b));
    ASSERT_EQ(logits.size(), 9u);
    const std::array<size_t, 3> label{2, 0, 1};
    double expected = 0.0;
    for (size_t i = 0; i < 3; ++i) {
        double sum = 0.0;
        for (size_t c = 0; c < 3; ++c)
            sum += std::exp(logits[3 * i + c]);
        expected += std::log(sum) - logits[3 * i + label[i]];
    }
    const auto actual = model_->loss(b);
    EXPECT_NEAR(*actual.sum.in().as<double>(), expected, 1e-5);
    EXPECT_EQ(*actual.weight.in().as<int64_t>(), 3);
}

TEST_F(ClassifierTest, PaddingDoesNotChangeTheLoss) {
    build();
    EXPECT_EQ(loss(batch(0)), loss(batch(9)));
    Batch other = batch();
    other.tokens = indices({1, 2, 3, 5, 0, 0, 5, 6, 0, 0, 0, 0, 7, 8, 9, 10, 1, 2}, {3, 6});
    EXPECT_NE(loss(other), loss(batch()));  // a token that is read does
}

TEST_F(ClassifierTest, GradientsOfAllParametersMatchFiniteDifferences) {
    build();
    const Batch b = batch();
    backward(b);
    for (Parameter* parameter : model_->parameters().all()) {
        const auto gradient = sink_of_model_.of(*parameter);
        const auto direction = random_values(parameter->shape().elements(), parameter->name());
        const auto start = parameter->master().values<float>();
        double predicted = 0.0, size = 0.0;
        for (size_t i = 0; i < gradient.size(); ++i) {
            predicted += gradient[i] * double(direction[i]);
            size += std::abs(gradient[i] * double(direction[i]));
        }
        const auto moved = [&](float step) {
            float* values = parameter->master().data<float>();
            for (size_t i = 0; i < start.size(); ++i)
                values[i] = start[i] + step * direction[i];
            parameter->changed();
            return loss(b);
        };
        constexpr float step = 1e-2f;
        const double difference = (moved(step) - moved(-step)) / (2.0 * double(step));
        moved(0.0f);
        EXPECT_NEAR(predicted, difference, 5e-3 * (size + 0.1)) << parameter->name();
    }
}

TEST_F(ClassifierTest, HasTheTrunkOfALanguageModelAndNoOtherHead) {
    for (const bool tied : {true, false}) {
        Classifier& model = build(tied);
        Transformer language_model(tiny(tied));
        std::vector<std::string> shared;
        for (const Parameter* parameter : model.parameters().all()) {
            if (Classifier::is_head(*parameter)) continue;
            const Parameter* same = language_model.parameters().find(parameter->name());
            ASSERT_NE(same, nullptr) << parameter->name();
            EXPECT_EQ(same->shape(), parameter->shape());
            shared.push_back(parameter->name());
        }
        EXPECT_EQ(shared.size(), language_model.parameters().all().size() - (tied ? 0 : 1));
        EXPECT_EQ(model.parameters().find("head.weight"), nullptr);
        EXPECT_EQ(model.parameters().find("embedding.tokens.weight")->uses(), 1);
        EXPECT_EQ(model.parameters().find("classifier.weight")->shape(), Shape({3, 8}));
    }
}

TEST_F(ClassifierTest, ATransformerWithoutLanguageHeadRefusesToProject) {
    TransformerConfig config = tiny(true);
    config.language_head = false;
    Transformer trunk(config);
    expect_error(
        ErrorKind::internal,
        [&] {
            trunk.project(tensor({0.0f}, {1, 1}));
        },
        "without a language head");
}

}  // namespace
}  // namespace plinth::test
