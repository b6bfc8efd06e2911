// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

namespace plinth::launch {

/// The words of a stage that takes no configuration: paths, and a few key=value settings.
class Operands {
  public:
    /// What a stage accepts.
    struct Rules {
        size_t least = 1;
        size_t most = 1;
        std::map<std::string, std::string> settings;  ///< name -> default
    };

    /// A word whose part before "=" is a lower-case name is a setting. Unknown settings and a wrong
    /// number of paths are errors of kind config.
    Operands(const std::vector<std::string>& words, const Rules& rules);

    const std::vector<std::string>& paths() const { return paths_; }
    const std::string& setting(const std::string& name) const { return settings_.at(name); }

  private:
    void set(const std::string& name, const std::string& value);

    std::vector<std::string> paths_;
    std::map<std::string, std::string> settings_;
};

}  // namespace plinth::launch
