// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/runtime/memory_holders.h"
#include "launch/config/run_config.h"

namespace plinth::launch {

class Session;

/// A run as it might be, and what it then needs by the plan.
struct MemorySetting {
    std::string words;  ///< what differs from the run as it is: KEY=VALUE, a blank between two
    RunConfig config;
    int64_t ranks = 1;
    int64_t peak = 0;     ///< bytes of the fullest rank where it computes: peak_by_plan
    int64_t on_host = 0;  ///< bytes beside a GPU
    bool fits = false;
};

/// Bytes of the fullest rank in the memory where its model computes: its GPU's, or the host's with
/// all that the rank keeps there.
int64_t peak_by_plan(const RunConfig& config, int64_t ranks);

/// Asked again and again by a search, which ends with what it has found as soon as it says false.
/// Empty: yes.
using GoesOn = std::function<bool()>;

/// What needs less memory than the resolved `config`, tried through the plan: of each key that
/// helps the mildest value with which the run fits into `limit` bytes, or the strongest where none
/// does; where no key helps enough, several of which each is needed; and more ranks, also those of
/// the other axes where they are enough. All are configurations that a run accepts.
std::vector<MemorySetting> settings_that_need_less(const RunConfig& config, int64_t ranks,
                                                   int64_t limit, const GoesOn& goes_on = {});

/// As half a sentence: which fit and which do not, each with its peak. `ranks` are the run's.
std::string text_of(const std::vector<MemorySetting>& settings, int64_t ranks);

/// `text_of` what needs less, which is said to be a part where `goes_on` ended the search.
std::string memory_settings_text(const RunConfig& config, int64_t ranks, int64_t limit,
                                 const GoesOn& goes_on);
/// The same with half a minute for the search.
std::string memory_settings_text(const RunConfig& config, int64_t ranks, int64_t limit);

/// What would help a run that has no memory left: half a sentence.
std::string memory_advice(const RunConfig& config, int64_t ranks, const MemoryShortage& shortage,
                          const GoesOn& goes_on = {});

/// While it lives, whoever runs out of the session's memory is told `memory_advice`, after a few
/// seconds at most: other ranks may wait, and must not take this one for stuck.
class MemoryAdvice {
  public:
    /// The session must outlive it.
    MemoryAdvice(const RunConfig& config, Session& session);
    ~MemoryAdvice();
    MemoryAdvice(const MemoryAdvice&) = delete;
    MemoryAdvice& operator=(const MemoryAdvice&) = delete;

  private:
    Session& session_;
};

}  // namespace plinth::launch
