// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "core/io/file.h"

/// The folder of one attempt belongs to one writer, also when two jobs save into one folder in
/// spite of the lock that keeps the second one out (core/io/run_lock.h): a job may lose it
/// unawares.
namespace plinth::checkpoints {

/// Holds the mark of the writer that made the folder, until that is committed. Readers ignore it.
inline constexpr const char* writer_name = "writer";

/// A mark that no other writer has: one line.
std::string new_writer_mark();

/// Makes `root` where it is missing, so that its own name survives a power cut.
void make_durable_folder(core::io::FileSystem& files, const std::string& root);

/// The largest number that a folder of an attempt at `step` has; 0 if there is none.
uint64_t newest_attempt(core::io::FileSystem& files, const std::string& root, uint64_t step);

/// Makes the folder of a new attempt at `step` in `root` and puts `mark` into it. Returns the
/// attempt's number, which is over `used` and new: of two writers at the same time each gets its
/// own.
uint64_t make_attempt(core::io::FileSystem& files, const std::string& root, uint64_t step,
                      uint64_t used, const std::string& mark);

/// Whether the folder is the one that this mark was put into: another job may have removed that one
/// and made its own of the same name.
bool is_own_attempt(core::io::FileSystem& files, const std::string& folder,
                    const std::string& mark);

/// Removes the mark of a committed attempt; no error if that does not succeed.
void remove_mark(core::io::FileSystem& files, const std::string& folder);

/// Refuses (kind io) a folder that is not this writer's any more.
void require_own_attempt(core::io::FileSystem& files, const std::string& folder,
                         const std::string& mark);

}  // namespace plinth::checkpoints
