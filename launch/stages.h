// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace plinth::launch {

/// What follows a stage's name on the command line.
struct StageArguments {
    std::vector<std::string> words;  ///< configuration file and key=value overrides, or paths
    bool dry_run = false;
    std::string shorthand{};  ///< value of the stage's own option, see Stage::Shorthand
};

/// One row of the command line: `plinth GROUP NAME CONFIG [key=value ...]`.
struct Stage {
    /// A stage that takes a configuration has a dry run; one that takes words only reads, or writes
    /// what it is told to.
    enum class Takes { configuration, words };

    std::string group;  ///< "data", "tokenizer", "checkpoint", "config", or empty
    std::string name;
    std::string help;
    std::string operands;  ///< of the usage line
    std::function<int(const StageArguments&)> run;
    std::string example{};  ///< of the help text
    Takes takes = Takes::configuration;
    /// An option "--NAME VALUE" that stands for the word "KEY=VALUE": name, key, help.
    struct Shorthand {
        std::string name, key, help;
    };
    std::optional<Shorthand> shorthand{};
};

const std::vector<Stage>& stages();

/// Runs a stage and returns the process's exit code. An error is printed as one line; the code is
/// that of its kind.
int run_stage(const Stage& stage, const StageArguments& arguments);

}  // namespace plinth::launch
