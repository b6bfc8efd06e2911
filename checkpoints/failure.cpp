// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/failure.h"

#include "checkpoints/checkpoint.h"

namespace plinth::checkpoints {

Failure current_failure() {
    try {
        throw;
    } catch (const Refused& error) {
        return {true, error.kind(), true, error.what()};
    } catch (const Error& error) {
        return {true, error.kind(), false, error.what()};
    } catch (const std::exception& error) {
        return {true, ErrorKind::internal, false, error.what()};
    }
}

Failure agree(core::Ranks& ranks, const Failure& mine) {
    if (ranks.all_agree(!mine.failed)) return {};
    // One byte of kind, one of refusal, the message; empty from ranks without a failure.
    std::string bytes;
    if (mine.failed) {
        bytes += static_cast<char>(mine.kind);
        bytes += static_cast<char>(mine.refused);
        bytes += ranks.size() == 1 ? mine.message
                                   : fmt::format("rank {}: {}", ranks.rank(), mine.message);
    }
    std::string first;
    for (const std::string& failure : ranks.gather(bytes, 0))
        if (first.empty()) first = failure;
    first = ranks.broadcast(first, 0);
    return {true, static_cast<ErrorKind>(first[0]), first[1] != 0, first.substr(2)};
}

void rethrow(const Failure& failure) {
    if (!failure.failed) return;
    if (failure.refused) throw Refused(failure.message, __FILE__, __LINE__);
    throw Error(failure.kind, failure.message, __FILE__, __LINE__);
}

}  // namespace plinth::checkpoints
