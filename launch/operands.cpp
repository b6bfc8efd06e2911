// SPDX-License-Identifier: Apache-2.0
#include "launch/operands.h"

#include "kernels/runtime/error.h"
#include "launch/config/text.h"

namespace plinth::launch {

namespace {

bool is_name(const std::string& text) {
    return !text.empty() &&
           text.find_first_not_of("abcdefghijklmnopqrstuvwxyz_") == std::string::npos;
}

}  // namespace

Operands::Operands(const std::vector<std::string>& words, const Rules& rules)
    : settings_(rules.settings) {
    for (const std::string& word : words) {
        const size_t equals = word.find('=');
        if (equals != std::string::npos && is_name(word.substr(0, equals)))
            set(word.substr(0, equals), word.substr(equals + 1));
        else
            paths_.push_back(word);
    }
    REQUIRE(config, paths_.size() >= rules.least && paths_.size() <= rules.most,
            "{} given where the stage takes {}; its --help shows an example",
            paths_.size() == 1 ? "1 path was" : fmt::format("{} paths were", paths_.size()),
            rules.most == rules.least ? std::to_string(rules.least)
            : rules.most == SIZE_MAX  ? fmt::format("{} or more", rules.least)
                                      : fmt::format("{} to {}", rules.least, rules.most));
}

void Operands::set(const std::string& name, const std::string& value) {
    const auto place = settings_.find(name);
    if (place != settings_.end()) {
        place->second = value;
        return;
    }
    std::vector<std::string> names;
    for (const auto& [known, ignored] : settings_)
        names.push_back(known);
    const std::string near = nearest(name, names);
    FAIL(config, "{}={}: this stage has no setting '{}'{}", name, value, name,
         near.empty() ? "" : fmt::format(" (did you mean '{}'?)", near));
}

}  // namespace plinth::launch
