// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace plinth::parallel {

// P stages, M micro-batches, V chunks of the model on each stage. The model is cut into P * V
// virtual stages; virtual stage g is chunk g / P of stage g % P. A micro-batch is numbered by its
// place among the slots that this rank computes in a step.

enum class ScheduleKind {
    gpipe,           ///< all forward passes, then all backward passes (Huang et al. 2019)
    one_f_one_b,     ///< PipeDream-Flush (Narayanan et al. 2021, "Memory-efficient ...")
    interleaved,     ///< 1F1B over several chunks a stage (Narayanan et al. 2021, Megatron-LM)
    zero_bubble_h1,  ///< backward pass in two halves, memory of 1F1B (Qi et al. 2024, ZB-H1)
};
/// "gpipe", "1f1b", "interleaved" or "zero_bubble".
std::string_view name_of(ScheduleKind kind);

struct ScheduleConfig {
    ScheduleKind kind = ScheduleKind::one_f_one_b;
    int stages = 1;         ///< P
    int micro_batches = 1;  ///< M, any number
    int chunks = 1;         ///< V; more than one with the interleaved schedule only

    /// Refuses (kind config) numbers below one and chunks that the schedule cannot use.
    void validate() const;
    int virtual_stages() const { return stages * chunks; }
    int virtual_stage(int stage, int chunk) const { return chunk * stages + stage; }
};

/// What a stage computes at once. `backward` is both halves of the backward pass.
enum class Pass { forward, backward, input_grad, weight_grad };
std::string_view name_of(Pass pass);

struct Compute {
    Pass pass = Pass::forward;
    int micro_batch = 0;
    int chunk = 0;

    bool operator==(const Compute&) const = default;
};

enum class Payload { activation, gradient };

/// A tensor that crosses between two stages. Each side names it by its own chunk: an activation is
/// sent as the output of the sender's chunk and received as the input of the receiver's chunk, the
/// gradient of that tensor travels the other way.
struct Message {
    Payload payload = Payload::activation;
    int micro_batch = 0;
    int chunk = 0;
    int peer = 0;  ///< the other stage

    bool operator==(const Message&) const = default;
};

/// A send, a receive, or both at once: then neither waits for the other to begin, and the stage
/// goes on when both are done. Messages between two stages match in the order of the lists.
struct Exchange {
    std::optional<Message> send;
    std::optional<Message> receive;

    bool operator==(const Exchange&) const = default;
};

using Action = std::variant<Compute, Exchange>;
/// For messages: "forward of micro-batch 3, chunk 0", "send of activation 3, chunk 0, to stage 1".
std::string describe(const Action& action);

/// What every stage does in one step: pure data, which a runner executes and `check_schedule`
/// proves.
struct Schedule {
    ScheduleConfig config;
    std::vector<std::vector<Action>> actions;  ///< by stage, in order
};

/// Each chunk runs its forward passes, input halves and weight halves in micro-batch order, so that
/// gradients are added in slot order whatever the schedule. Refuses what `validate()` refuses.
Schedule make_schedule(const ScheduleConfig& config);

}  // namespace plinth::parallel
