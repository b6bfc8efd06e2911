// SPDX-License-Identifier: Apache-2.0
#include "launch/stages.h"

#include <fmt/core.h>

#include <cstdio>
#include <new>

#include "launch/config/load.h"
#include "launch/plan.h"
#include "launch/prepare_data.h"
#include "launch/pretrain.h"
#include "launch/session.h"
#include "parallel/comm/mpi.h"

namespace plinth::launch {

namespace {

/// A first word without "=" is the configuration file; the rest are overrides.
template <class Config>
Config load_words(const std::vector<std::string>& words) {
    const bool has_file =
        !words.empty() && words.front().find('=') == std::string::npos && words.front()[0] != '~';
    const std::span<const std::string> overrides(words.begin() + (has_file ? 1 : 0), words.end());
    return load<Config>(core::io::posix(), has_file ? words.front() : "", overrides);
}

int run_pretrain(const StageArguments& arguments) {
    const auto config = load_words<RunConfig>(arguments.words);
    parallel::MpiWorld world({.time_limit = std::chrono::duration<double>(config.run.timeout)});
    return world.run([&](parallel::Communicator& ranks) {
        if (const auto problem = validate_world(config, ranks.size()))
            FAIL(config, "{}: {}", problem->key, problem->message);
        Session session(ranks, config.run.threads, world.local_size());
        if (arguments.dry_run) {
            session.say(plan_text(config, ranks.size()));
            return 0;
        }
        return pretrain(config, session);
    });
}

}  // namespace

const std::vector<Stage>& stages() {
    static const std::vector<Stage> table = {
        {"", "pretrain", "Train a model from scratch, or go on where the run stopped",
         "CONFIG [key=value ...]", run_pretrain},
        {"data", "prepare", "Clean, tokenise and shard raw text",
         "[CONFIG] prepare.inputs=[PATH] prepare.output=FOLDER ...",
         [](const StageArguments& arguments) {
             return prepare_data(load_words<PrepareConfig>(arguments.words));
         }},
    };
    return table;
}

int run_stage(const Stage& stage, const StageArguments& arguments) {
    try {
        return stage.run(arguments);
    } catch (const Error& error) {
        fmt::print(stderr, "plinth: {}\n", error.what());
        return exit_code(error.kind());
    } catch (const std::bad_alloc&) {
        fmt::print(stderr, "plinth: out of memory\n");
        return exit_code(ErrorKind::io);
    } catch (const std::exception& error) {
        fmt::print(stderr, "plinth: internal error: {}\n", error.what());
        return exit_code(ErrorKind::internal);
    }
}

}  // namespace plinth::launch
