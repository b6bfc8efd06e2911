// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>

#include "launch/config/text.h"
#include "launch/environment.h"
#include "launch/signal_thread.h"
#include "launch/stages.h"

namespace {

using plinth::launch::Stage;
using plinth::launch::StageArguments;

/// Fills `selected` when the stage's subcommand is given.
void add_stage(CLI::App& parent, const Stage& stage, StageArguments& arguments,
               const Stage*& selected) {
    CLI::App* command = parent.add_subcommand(stage.name, stage.help);
    command->add_option("operands", arguments.words, stage.operands)->type_name("");
    if (stage.takes == Stage::Takes::configuration)
        command->add_flag("--dry-run", arguments.dry_run,
                          "Check the configuration (a training run: also its layout, data and "
                          "checkpoint, but no hash), print the plan, and stop");
    if (stage.shorthand)
        command->add_option("--" + stage.shorthand->name, arguments.shorthand,
                            stage.shorthand->help);
    if (!stage.example.empty()) command->footer("Example: " + stage.example);
    command->callback([&selected, &stage, &arguments] {
        selected = &stage;
        if (!arguments.shorthand.empty())
            arguments.words.push_back(stage.shorthand->key + "=" + arguments.shorthand);
    });
}

std::string names_in(const std::string& group) {
    std::string names;
    for (const Stage& stage : plinth::launch::stages())
        if (stage.group == group) names += (names.empty() ? "" : ", ") + stage.name;
    return names;
}

/// The words that nothing understood, with the stage that each may have meant.
std::string unknown_words(const CLI::App& app) {
    std::vector<std::string> names;
    for (const Stage& stage : plinth::launch::stages()) {
        names.push_back(stage.name);
        if (!stage.group.empty()) names.push_back(stage.group);
    }
    std::string text;
    for (const std::string& word : app.remaining(true)) {
        if (word.starts_with("-")) {
            const std::string near =
                plinth::launch::nearest(word, {"--dry-run", "--layouts", "--help", "--version"});
            text += "plinth: '" + word + "' is no option here" +
                    (near.empty() || near == word ? "" : " (did you mean '" + near + "'?)") +
                    "; options of a stage stand behind its name\n";
            break;
        }
        if (!text.empty()) break;  // what follows is its operands
        const std::string near = plinth::launch::nearest(word, names);
        text += "plinth: unknown stage '" + word + "'" +
                (near.empty() ? "" : " (did you mean '" + near + "'?)") + "\n";
    }
    return text;
}

}  // namespace

int main(int argc, char** argv) {
    const plinth::launch::SignalThread signals;
    CLI::App app("Plinth pretrains foundation models: one program from raw text to generated text.",
                 "plinth");
    app.require_subcommand(1);
    app.set_version_flag("--version", plinth::launch::version_text);
    app.footer("Keys are listed in docs/configuration.md; exit codes in docs/operations.md.");
    StageArguments arguments;
    const Stage* selected = nullptr;
    std::map<std::string, CLI::App*> groups;
    for (const Stage& stage : plinth::launch::stages()) {
        CLI::App*& group = groups[stage.group];
        if (!group) {
            group = stage.group.empty()
                        ? &app
                        : app.add_subcommand(stage.group, "Stages: " + names_in(stage.group));
            group->require_subcommand(1);
        }
        add_stage(*group, stage, arguments, selected);
    }
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        const std::string unknown = unknown_words(app);
        if (unknown.empty()) return app.exit(error) == 0 ? 0 : 2;
        std::fputs((unknown + "Run with --help for more information.\n").c_str(), stderr);
        return 2;
    }
    return plinth::launch::run_stage(*selected, arguments);
}
