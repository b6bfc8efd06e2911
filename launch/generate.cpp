// SPDX-License-Identifier: Apache-2.0
#include "launch/generate.h"

#include <fmt/format.h>

#include <cstring>
#include <optional>

#include "core/io/print.h"
#include "parallel/pipeline_parallel/relay.h"

namespace plinth::launch {

namespace {

using core::data::Tokenizer;
using core::models::TransformerConfig;

std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, const std::string& text,
                                   size_t number) {
    std::vector<int32_t> tokens = tokenizer.encode(text, core::data::SpecialText::recognise);
    if (!tokens.empty()) return tokens;
    REQUIRE(config, tokenizer.end_of_document(),
            "generate.prompts.{}: is empty, and the checkpoint's tokenizer has no end-of-document "
            "token to begin from; give at least one character",
            number);
    return {*tokenizer.end_of_document()};
}

std::vector<std::vector<int32_t>> encode_prompts(const RestoredModel& restored,
                                                 const std::vector<std::string>& prompts) {
    const TransformerConfig& model = restored.model->config();
    std::vector<std::vector<int32_t>> result;
    for (const std::string& text : prompts) {
        std::vector<int32_t> tokens = encode_prompt(*restored.tokenizer, text, result.size());
        REQUIRE(config,
                model.positions != TransformerConfig::Positions::learned ||
                    static_cast<int64_t>(tokens.size()) < model.max_positions,
                "generate.prompts.{}: {} tokens leave no room in the {} positions of the model; "
                "shorten the prompt",
                result.size(), tokens.size(), model.max_positions);
        result.push_back(std::move(tokens));
    }
    return result;
}

/// Of texts that end because the model has no more positions.
void warn_of_cut_texts(const TransformerConfig& model,
                       const std::vector<std::vector<int32_t>>& prompts,
                       const std::vector<std::vector<int32_t>>& texts, int64_t wanted,
                       Session& session) {
    if (model.positions != TransformerConfig::Positions::learned) return;
    for (size_t i = 0; i < texts.size(); ++i) {
        const auto tokens = static_cast<int64_t>(texts[i].size());
        if (tokens < wanted &&
            static_cast<int64_t>(prompts[i].size()) + tokens == model.max_positions)
            session.warn(fmt::format(
                "generate.prompts.{}: its text ends after {} of {} tokens (generate.max_tokens): "
                "the {} positions of the model are used up",
                i, tokens, wanted, model.max_positions));
    }
}

/// Prints prompts and what follows them: whole characters as they come, or each text at its end.
class Printer {
  public:
    Printer(const Tokenizer& tokenizer, const GenerateSection& config, parallel::Activity& activity)
        : tokenizer_(tokenizer), config_(config), activity_(activity), decoder_(tokenizer) {
        begin();
    }

    void token(size_t sequence, int32_t id) {
        while (number_ < sequence)
            next();
        put(decoder_.push(id));
        ++tokens_;
    }
    void finish() {
        while (number_ < config_.prompts.size())
            next();
    }
    int64_t tokens() const { return tokens_; }

  private:
    void begin() {
        if (config_.prompts.size() > 1)
            put(fmt::format("--- {} of {} ---\n", number_ + 1, config_.prompts.size()));
        put(config_.prompts[number_]);
    }
    void next() {
        put(decoder_.finish() + "\n");
        flush();
        decoder_ = core::data::StreamDecoder(tokenizer_);
        if (++number_ < config_.prompts.size()) begin();
    }
    void put(const std::string& text) {
        pending_ += text;
        if (config_.stream) flush();
    }
    void flush() {
        // Whoever reads it may take his time, like a disk.
        const parallel::PhaseMark mark(activity_, parallel::Phase::log);
        core::io::print_result(pending_);
        core::io::flush_result();
        pending_.clear();
    }

    const Tokenizer& tokenizer_;
    const GenerateSection& config_;
    parallel::Activity& activity_;
    core::data::StreamDecoder decoder_;
    std::string pending_;
    size_t number_ = 0;
    int64_t tokens_ = 0;
};

core::inference::DecodeConfig decode_config(const GenerateSection& config,
                                            const Tokenizer& tokenizer) {
    return {.max_tokens = config.max_tokens,
            .end_token = tokenizer.end_of_document(),
            .vocab_size = tokenizer.vocab_size(),
            .choice = {.temperature = config.temperature,
                       .top_k = config.top_k,
                       .top_p = config.top_p,
                       .seed = static_cast<uint64_t>(config.seed)},
            .use_cache = config.cache};
}

std::string to_bytes(const std::vector<int32_t>& tokens) {
    return {reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(int32_t)};
}

std::vector<int32_t> to_tokens(const std::string& bytes) {
    std::vector<int32_t> tokens(bytes.size() / sizeof(int32_t));
    if (!tokens.empty()) std::memcpy(tokens.data(), bytes.data(), bytes.size());
    return tokens;
}

}  // namespace

std::vector<std::vector<int32_t>> continue_prompts(const RestoredModel& restored,
                                                   const std::vector<std::vector<int32_t>>& prompts,
                                                   core::inference::DecodeConfig config,
                                                   Session& session,
                                                   const core::inference::OnToken& on_token) {
    const parallel::PhaseMark mark(session.activity(), parallel::Phase::sample);
    parallel::Communicator& copies = restored.groups->along(parallel::Axis::data);
    const auto number_of = static_cast<size_t>(copies.size());
    const auto mine = static_cast<size_t>(copies.rank());
    parallel::PipelineRelay relay(*restored.model, *restored.groups);
    std::vector<std::vector<int32_t>> texts;
    for (size_t first = 0; first < prompts.size(); first += number_of) {
        std::vector<int32_t> text;
        const size_t number = first + mine;
        if (number < prompts.size()) {
            config.first_sequence = number;
            const auto told = [&](size_t, int32_t token) {
                if (on_token && mine == 0) on_token(number, token);
            };
            text = core::inference::decode(*restored.model, {prompts[number]}, config, told, &relay)
                       .front();
        }
        const std::vector<std::string> all = copies.all_gather("texts", to_bytes(text));
        for (size_t copy = 0; copy < all.size() && texts.size() < prompts.size(); ++copy) {
            texts.push_back(to_tokens(all[copy]));
            if (!on_token || (copy == 0 && mine == 0)) continue;
            for (const int32_t token : texts.back())
                on_token(first + copy, token);
        }
    }
    return texts;
}

int generate(const GenerateConfig& config, Session& session) {
    const GenerateSection& section = config.generate;
    const RestoredModel restored =
        RestoredModel::open(section.checkpoint, config.parallel, session);
    const auto prompts = encode_prompts(restored, section.prompts);
    const core::Scope scope(session.scope(dtype_of(section.dtype)));
    const double began = session.seconds();
    std::optional<Printer> printer;
    core::inference::OnToken print;
    if (session.speaks()) {
        printer.emplace(*restored.tokenizer, section, session.activity());
        print = [&printer](size_t sequence, int32_t token) { printer->token(sequence, token); };
    }
    const auto texts = continue_prompts(
        restored, prompts, decode_config(section, *restored.tokenizer), session, print);
    if (!printer) return 0;
    printer->finish();
    warn_of_cut_texts(restored.model->config(), prompts, texts, section.max_tokens, session);
    const double seconds = session.seconds() - began;
    core::io::print_best_effort(
        stderr,
        fmt::format("{} tokens in {:.2f} s ({:.0f} tokens/s), {} at step {}\n", printer->tokens(),
                    seconds, static_cast<double>(printer->tokens()) / seconds, restored.folder,
                    restored.step));
    return 0;
}

}  // namespace plinth::launch
