// SPDX-License-Identifier: Apache-2.0
#include "tests/numerics/golden_file.h"

#include <cstdlib>
#include <fstream>
#include <functional>
#include <sstream>

#include "kernels/runtime/error.h"

namespace plinth::test {

namespace {

using core::models::TransformerConfig;
using Setter = std::function<void(GoldenModel&, const std::string&)>;

template <typename T>
T one_of(const std::map<std::string, T>& names, const std::string& value) {
    const auto found = names.find(value);
    CHECK(found != names.end(), "a golden file says '{}'", value);
    return found->second;
}

Setter integer(int64_t TransformerConfig::*member) {
    return [member](GoldenModel& model, const std::string& value) {
        model.config.*member = std::stoll(value);
    };
}

Setter flag(bool TransformerConfig::*member) {
    return [member](GoldenModel& model, const std::string& value) {
        model.config.*member = one_of<bool>({{"true", true}, {"false", false}}, value);
    };
}

Setter rotary(double kernels::Rotary::*member) {
    return [member](GoldenModel& model, const std::string& value) {
        model.config.rotary.*member = std::stod(value);
    };
}

Setter adamw(double core::optim::AdamWConfig::*member) {
    return [member](GoldenModel& model, const std::string& value) {
        model.optimizer.*member = std::stod(value);
    };
}

void set_norm(GoldenModel& model, const std::string& value) {
    using Kind = core::nn::NormConfig::Kind;
    model.config.norm.kind = one_of<Kind>({{"layer", Kind::layer}, {"rms", Kind::rms}}, value);
}

void set_positions(GoldenModel& model, const std::string& value) {
    using Positions = TransformerConfig::Positions;
    model.config.positions = one_of<Positions>({{"learned", Positions::learned},
                                                {"rotary", Positions::rotary},
                                                {"alibi", Positions::alibi}},
                                               value);
}

void set_activation(GoldenModel& model, const std::string& value) {
    using Activation = TransformerConfig::Activation;
    model.config.activation = one_of<Activation>(
        {{"gelu_tanh", Activation::gelu_tanh}, {"swiglu", Activation::swiglu}}, value);
}

std::map<std::string, Setter> setters() {
    using C = TransformerConfig;
    using A = core::optim::AdamWConfig;
    using R = kernels::Rotary;
    return {
        {"model.vocab_size", integer(&C::vocab_size)},
        {"model.layers", integer(&C::layers)},
        {"model.width", integer(&C::width)},
        {"model.heads", integer(&C::heads)},
        {"model.kv_heads", integer(&C::kv_heads)},
        {"model.head_width", integer(&C::head_width)},
        {"model.ffn_width", integer(&C::ffn_width)},
        {"model.max_positions", integer(&C::max_positions)},
        {"model.norm", set_norm},
        {"model.norm_eps", [](GoldenModel& m, const auto& v) { m.config.norm.eps = std::stod(v); }},
        {"model.positions", set_positions},
        {"model.activation", set_activation},
        {"model.tied_head", flag(&C::tied_head)},
        {"model.attention_bias", flag(&C::attention_bias)},
        {"model.qkv_bias", flag(&C::qkv_bias)},
        {"model.mlp_bias", flag(&C::mlp_bias)},
        {"model.qk_norm", flag(&C::qk_norm)},
        {"model.sliding_window", integer(&C::attention_window)},
        {"model.embedding_norm", flag(&C::embedding_norm)},
        {"model.rope_theta", rotary(&R::theta)},
        {"model.rope_scaling.type",
         [](GoldenModel&, const auto& v) {
             one_of<bool>({{"llama3", true}}, v);
         }},
        {"model.rope_scaling.factor", rotary(&R::factor)},
        {"model.rope_scaling.low_freq_factor", rotary(&R::low_freq_factor)},
        {"model.rope_scaling.high_freq_factor", rotary(&R::high_freq_factor)},
        {"model.rope_scaling.original_positions",
         [](GoldenModel& m, const auto& v) { m.config.rotary.original_positions = std::stoll(v); }},
        {"optimizer.lr", [](GoldenModel& m, const auto& v) { m.learning_rate = std::stod(v); }},
        {"optimizer.beta1", adamw(&A::beta1)},
        {"optimizer.beta2", adamw(&A::beta2)},
        {"optimizer.eps", adamw(&A::eps)},
        {"optimizer.weight_decay", adamw(&A::weight_decay)},
        {"optimizer.clip", [](GoldenModel& m, const auto& v) { m.clip = std::stod(v); }},
        {"optimizer.z_loss", [](GoldenModel& m, const auto& v) { m.config.z_loss = std::stod(v); }},
    };
}

void read_line(GoldenModel& model, std::istringstream& words) {
    static const std::map<std::string, Setter> known = setters();
    std::string kind, name, value;
    words >> kind;
    if (kind == "config") {
        words >> name >> value;
        one_of(known, name)(model, value);
    } else if (kind == "batch") {
        words >> model.batch >> model.length;
    } else if (kind == "step") {
        size_t step = 0;
        StepFacts facts;
        words >> step >> facts.loss >> facts.norm;
        model.facts.steps.push_back(facts);
        CHECK(step == model.facts.steps.size(), "step {} is out of order", step);
    } else if (kind == "grad" || kind == "param") {
        words >> name;
        Checksum& sum = (kind == "grad" ? model.facts.gradients : model.facts.parameters)[name];
        words >> sum.norm >> sum.probe;
    } else {
        CHECK(kind == "error32", "a golden file has a line '{}'", kind);
        words >> name >> model.error32[name];
    }
}

}  // namespace

GoldenModel read_golden_model(const std::string& name) {
    // A program that was carried to another machine is told where the files are.
    const char* sources = std::getenv("PLINTH_SOURCE_DIR");
    const std::string path = std::string(sources ? sources : PLINTH_SOURCE_DIR) +
                             "/tests/golden/models/" + name + ".txt";
    std::ifstream file(path);
    CHECK(file.is_open(), "{} is missing", path);
    GoldenModel model;
    model.name = name;
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with('#')) continue;
        std::istringstream words(line);
        read_line(model, words);
        CHECK(!words.fail(), "{}: {}", path, line);
    }
    model.config.rotary.heads = model.config.heads;
    model.config.rotary.kv_heads = model.config.kv_heads;
    return model;
}

}  // namespace plinth::test
