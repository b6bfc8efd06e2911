// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>

#include "checkpoints/checkpoint.h"
#include "checkpoints/reader.h"
#include "core/io/file.h"
#include "core/ranks.h"
#include "core/tensor/shard.h"

namespace plinth::checkpoints {

struct LoadOptions {
    /// Loading a part of the table is intended (weights without optimizer states). Otherwise the
    /// ranks' tensors together must be the checkpoint's.
    bool subset = false;
    /// Tensors that all ranks want alike are read once and broadcast, and so are, among ranks that
    /// want the same of what is left, theirs; false: every rank reads all that it needs.
    bool distribute = true;
    /// True for a tensor that may be kept in the other one of fp32 and bf16 than it is wanted in:
    /// from bf16 nothing is lost, fp32 is rounded to the nearest, ties to even. Empty: for none.
    std::function<bool(const std::string& name)> may_convert = {};
    /// True for a tensor that may be kept with more rows than are wanted: those behind stay unread.
    /// Empty: for none.
    std::function<bool(const Manifest& manifest, const TensorInfo& kept, int64_t rows)>
        may_have_more_rows = {};
    int threads = 2;  ///< of reading
    /// Called on the thread that loads, each time that more of this rank's bytes are in place: at
    /// most 16 MiB of a file later. A load may last longer than a rank may stand still.
    std::function<void()> progress = {};
};

/// Collective. Fills `tensors` from an open checkpoint in any layout. Tensors that are missing, not
/// asked for, of another shape, or of another dtype that `may_convert` does not allow are `Refused`
/// by name. The error of one rank is thrown on all; then the contents of `tensors` are undefined.
void load(const Checkpoint& checkpoint, core::Ranks& ranks,
          std::span<const core::StateTensor> tensors, const LoadOptions& options = {});

/// What a resume starts from.
struct Restored {
    std::string folder;
    Manifest manifest;
};

/// Collective. Loads the newest sound checkpoint of a run folder; each newer one that is not sound
/// is named to `warn` (on rank 0). Empty if the run has none committed; an error of kind checkpoint
/// that names all causes if none of them is sound. `accept` sees the manifest of each checkpoint,
/// the same on every rank, before its tensors are read, and may refuse it by throwing, alike on all
/// ranks: then no older one is tried.
std::optional<Restored> restore_newest(core::io::FileSystem& files, core::Ranks& ranks,
                                       const std::string& root,
                                       std::span<const core::StateTensor> tensors, const Warn& warn,
                                       const LoadOptions& options = {},
                                       const std::function<void(const Manifest&)>& accept = {});

/// The newest checkpoint whose structure is sound (tensor bytes are checked when they are read),
/// for one process. Same warnings and errors.
std::optional<Checkpoint> open_newest(core::io::FileSystem& files, const std::string& root,
                                      const Warn& warn);

}  // namespace plinth::checkpoints
