// SPDX-License-Identifier: Apache-2.0
#include "launch/stages.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <thread>

#include "core/io/print.h"
#include "kernels/runtime/stand_in_module.h"
#include "launch/config/load.h"
#include "launch/config/reference.h"
#include "launch/doctor.h"
#include "launch/evaluate.h"
#include "launch/finetune.h"
#include "launch/generate.h"
#include "launch/inspect.h"
#include "launch/prepare_data.h"
#include "launch/pretrain.h"
#include "launch/rank_watch.h"
#include "launch/session.h"
#include "launch/tokenizer_stages.h"
#include "launch/verify.h"
#include "parallel/comm/launcher.h"
#include "parallel/comm/mpi.h"

namespace plinth::launch {

namespace {

const char* variable(const char* name) {
    return std::getenv(name);
}

/// A first word without "=" is the configuration file; the rest are overrides.
template <class Config>
Config load_words(const std::vector<std::string>& words) {
    const bool has_file =
        !words.empty() && words.front().find('=') == std::string::npos && words.front()[0] != '~';
    const std::span<const std::string> overrides(words.begin() + (has_file ? 1 : 0), words.end());
    return load<Config>(core::io::posix(), has_file ? words.front() : "", overrides);
}

std::string algorithm_cache(const std::string& key) {
    return algorithm_cache_folder(key, variable);
}

/// A dry run computes nothing: it needs no GPU where the run would.
SessionOptions session_options(const RunSection& run, const TrainSection& train,
                               const parallel::MpiWorld& world, bool dry_run) {
    SessionOptions options{.threads = run.threads,
                           .local_rank = world.local_rank(),
                           .local_ranks = world.local_size()};
    if (dry_run) return options;
    options.device = run.device;
    options.exchange = run.device_exchange;
    options.stream = {.reproducible = run.reproducible, .tf32 = train.tf32};
    options.algorithm_cache = algorithm_cache(run.algorithm_cache);
    return options;
}

int run_pretrain(const StageArguments& arguments) {
    const auto config = load_words<RunConfig>(arguments.words);
    prepare_device_queues(config.run.device_exchange);
    parallel::MpiWorld world({.time_limit = std::chrono::duration<double>(config.run.timeout)});
    return world.run([&](parallel::Communicator& ranks) {
        auto problem = validate_language_model(config.model);
        if (!problem) problem = validate_world(config, ranks.size());
        if (problem) FAIL(config, "{}: {}", problem->key, problem->message);
        const auto watch = watch_ranks(ranks, config.run);
        Session session(ranks, session_options(config.run, config.train, world, arguments.dry_run));
        return pretrain(config, session, arguments.dry_run);
    });
}

int run_finetune(const StageArguments& arguments) {
    const auto config = load_words<FinetuneConfig>(arguments.words);
    prepare_device_queues(config.run.device_exchange);
    parallel::MpiWorld world({.time_limit = std::chrono::duration<double>(config.run.timeout)});
    return world.run([&](parallel::Communicator& ranks) {
        const auto watch = watch_ranks(ranks, config.run);
        Session session(ranks, session_options(config.run, config.train, world, arguments.dry_run));
        return finetune(config, session, arguments.dry_run);
    });
}

/// A stage that only reads a checkpoint; its dry run checks the configuration, and that its layout
/// fills the ranks, and prints it.
template <class Config, class Section>
int run_on_ranks(const StageArguments& arguments, Section Config::*section,
                 int (*stage)(const Config&, Session&)) {
    const auto config = load_words<Config>(arguments.words);
    parallel::MpiWorld world({.time_limit = std::chrono::duration<double>(config.run.timeout)});
    return world.run([&](parallel::Communicator& ranks) {
        if (const auto problem = validate_ranks(config.parallel, ranks.size()))
            FAIL(config, "{}: {}", problem->key, problem->message);
        const auto watch = watch_ranks(ranks, config.run);
        const Section& own = config.*section;
        Session session(ranks, {.threads = own.threads,
                                .local_rank = world.local_rank(),
                                .local_ranks = world.local_size(),
                                .device = own.device,
                                // The only way these stages have, so that there is nothing to say
                                // of it between the lines of their result.
                                .exchange = DeviceExchange::host,
                                .algorithm_cache = algorithm_cache("")});
        if (arguments.dry_run) {
            session.print_result(to_yaml(config));
            return 0;
        }
        const int code = stage(config, session);
        session.algorithms().exchange();
        return code;
    });
}

int run_evaluate(const StageArguments& arguments) {
    return run_on_ranks(arguments, &EvaluateConfig::evaluate, evaluate);
}

int run_generate(const StageArguments& arguments) {
    return run_on_ranks(arguments, &GenerateConfig::generate, generate);
}

int print_reference(const std::vector<std::string>& words) {
    REQUIRE(config, words.empty(), "{}: config reference takes no operands", words.front());
    core::io::print_result(configuration_reference());
    return 0;
}

/// Each of several tasks would do the whole work, in the way of the others.
void require_one_process() {
    const int ranks = parallel::launched_ranks(variable);
    REQUIRE(config, ranks == 1,
            "this stage is one process (its ranks, if it has any, are threads of it), but a "
            "launcher started {}: run it without mpirun or srun",
            ranks);
}

/// A stage of one process; its dry run checks the configuration and prints it.
template <class Config>
int run_alone(const StageArguments& arguments, int (*stage)(const Config&)) {
    require_one_process();
    const auto config = load_words<Config>(arguments.words);
    if (!arguments.dry_run) return stage(config);
    core::io::print_result(to_yaml(config));
    return 0;
}

/// A stage that takes plain words.
std::function<int(const StageArguments&)> on_words(
    int (*run)(const std::vector<std::string>& words)) {
    return [run](const StageArguments& arguments) { return run(arguments.words); };
}

/// The same, of one process.
std::function<int(const StageArguments&)> alone_on_words(
    int (*run)(const std::vector<std::string>& words)) {
    return [run](const StageArguments& arguments) {
        require_one_process();
        return run(arguments.words);
    };
}

/// A mistake that all ranks find before they know each other is said once: the launcher ends the
/// job when the first one has. A rank that is alone in finding it speaks a little later.
void let_first_rank_speak() {
    if (parallel::launched_rank(variable) > 0) std::this_thread::sleep_for(std::chrono::seconds(5));
}

}  // namespace

const std::vector<Stage>& stages() {
    static const std::vector<Stage> table = {
        {"", "pretrain", "Train a model from scratch, or go on where the run stopped",
         "CONFIG [key=value ...]", run_pretrain,
         "launch/run_mpi.sh -n 4 plinth pretrain configs/gpt/small.yaml train.steps=200"},
        {"", "finetune", "Go on from a checkpoint: on text, on responses to prompts, or on labels",
         "[CONFIG] checkpoint.init=CHECKPOINT finetune.files=[PATH] ...", run_finetune,
         "launch/run_mpi.sh -n 2 plinth finetune checkpoint.init=runs/gpt_small "
         "finetune.mode=classification "
         "finetune.files=[train.tsv] finetune.held_out=[dev.tsv] finetune.epochs=3"},
        {"", "evaluate",
         "Loss, perplexity, bits per byte and accuracy of a checkpoint, over sliding windows of "
         "the documents in a row",
         "[CONFIG] evaluate.checkpoint=PATH evaluate.data=[PATH] ...", run_evaluate,
         "launch/run_mpi.sh -n 4 plinth evaluate evaluate.checkpoint=runs/gpt_tiny "
         "evaluate.data=[data/text] "
         "evaluate.stride=32 parallel.pipeline=2"},
        {"", "generate", "Text that continues prompts",
         "[CONFIG] generate.checkpoint=PATH generate.prompts=[TEXT] ...", run_generate,
         "launch/run_mpi.sh -n 2 plinth generate generate.checkpoint=runs/gpt_tiny "
         "'generate.prompts=[\"Once upon\"]' generate.top_p=0.9 parallel.tensor=2"},
        {"data", "prepare", "Clean, tokenise and shard raw text",
         "[CONFIG] prepare.inputs=[PATH] prepare.output=FOLDER ...",
         [](const StageArguments& arguments) { return run_alone(arguments, prepare_data); },
         "plinth data prepare prepare.inputs=[corpus/*.jsonl.zst] prepare.output=data/text"},
        {"data", "inspect",
         "Check every byte of a data set; print its counts, lengths, entropy and first documents",
         "FOLDER", alone_on_words(inspect_data), "plinth data inspect data/text",
         Stage::Takes::words},
        {"tokenizer", "train", "Learn a byte-level BPE from raw text",
         "[CONFIG] tokenizer.inputs=[PATH] tokenizer.output=FOLDER ...",
         [](const StageArguments& arguments) { return run_alone(arguments, train_tokenizer); },
         "plinth tokenizer train tokenizer.inputs=[corpus] tokenizer.output=data/bpe "
         "tokenizer.vocab_size=8192"},
        {"tokenizer", "encode",
         "Print token ids, a line a document; standard input is one document",
         "TOKENIZER [FILE ...] [print=ids|counts] [field=text]", alone_on_words(encode_text),
         "plinth tokenizer encode data/bpe corpus/a.txt print=counts", Stage::Takes::words},
        {"checkpoint", "inspect", "Print a table of a checkpoint: counters, versions, tensors",
         "PATH of a checkpoint, or of a run (its newest one)", alone_on_words(inspect_checkpoint),
         "plinth checkpoint inspect runs/gpt_tiny", Stage::Takes::words},
        {"checkpoint", "verify", "Check every byte of a checkpoint, or of all those of a run",
         "PATH of a checkpoint or of a run", alone_on_words(verify_checkpoint),
         "plinth checkpoint verify runs/gpt_tiny", Stage::Takes::words},
        {"", "verify",
         "Train a few steps in other layouts and compare them with one rank, tensor by tensor",
         "CONFIG [key=value ...]",
         [](const StageArguments& arguments) { return run_alone(arguments, verify); },
         "plinth verify configs/gpt/tiny.yaml --layouts all", Stage::Takes::configuration,
         Stage::Shorthand{"layouts", "verify.layouts",
                          "own: that of the configuration; all: every one (verify.ranks)"}},
        {"", "doctor",
         "Measure the machine of every rank: cores, products, memory, links, disk; name what is "
         "wrong",
         "[folder=PATH]", on_words(doctor), "launch/run_mpi.sh -n 4 plinth doctor folder=runs",
         Stage::Takes::words},
        {"config", "reference", "Print every configuration key, as docs/configuration.md", "",
         on_words(print_reference), "plinth config reference > docs/configuration.md",
         Stage::Takes::words},
        {"", "plot", "Draw curves of metrics.jsonl files on the terminal or as SVG",
         "FILE or run folder ... [key=loss] [svg=OUT] [title=TEXT]", alone_on_words(plot_metrics),
         "plinth plot runs/gpt_tiny/metrics.jsonl key=held_out_loss svg=curve.svg",
         Stage::Takes::words},
    };
    return table;
}

int run_stage(const Stage& stage, const StageArguments& arguments) {
    try {
        const char* const module = variable("PLINTH_DEVICE_MODULE");
        use_device_module(module ? module : "");
        const int code = stage.run(arguments);
        if (code == 0) core::io::flush_result();  // else the code says already that it is not whole
        return code;
    } catch (const Error& error) {
        let_first_rank_speak();
        core::io::print_best_effort(stderr, fmt::format("plinth: {}\n", error.what()));
        return exit_code(error.kind());
    } catch (const std::bad_alloc&) {
        core::io::print_best_effort(stderr, "plinth: out of memory\n");
        return exit_code(ErrorKind::io);
    } catch (const std::exception& error) {
        core::io::print_best_effort(stderr,
                                    fmt::format("plinth: internal error: {}\n", error.what()));
        return exit_code(ErrorKind::internal);
    }
}

}  // namespace plinth::launch
