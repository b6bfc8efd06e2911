// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/runtime/dtype.h"
#include "kernels/runtime/error.h"
#include "kernels/shape.h"

/// Checkpoints: a folder of raw tensor bytes, their index, a root manifest and a COMMIT that binds
/// them. The bytes are specified in docs/checkpoint_format.md.
namespace plinth::checkpoints {

/// The newest format this program reads and the one it writes.
inline constexpr uint32_t format_version = 1;

/// One row of the table of tensors.
struct TensorInfo {
    std::string name;
    DType dtype = DType::f32;
    Shape global_shape;
    bool operator==(const TensorInfo&) const = default;
};

/// Size of a mesh axis ("dp", 8).
struct MeshAxis {
    std::string name;
    int64_t size = 1;
    bool operator==(const MeshAxis&) const = default;
};

/// All that a resume needs besides tensor bytes. The caller fills everything above the line; save
/// fills what is below it.
struct Manifest {
    std::string configuration;                      ///< resolved, as text
    std::map<std::string, int64_t> counters;        ///< "consumed_samples", "updates", ...
    std::map<std::string, std::string> properties;  ///< library versions, instruction set, ...
    std::map<std::string, std::string> blobs;       ///< sampler state, seeds, schedule state
    std::vector<MeshAxis> mesh;                     ///< fastest axis first
    std::map<std::string, std::string> files;       ///< tokenizer files: plain name -> bytes
    // ----
    std::string run_id;  ///< 32 hex digits
    int64_t step = 0;
    int64_t attempt = 0;
    std::vector<TensorInfo> tensors;  ///< sorted by name
    bool operator==(const Manifest&) const = default;

    /// The counter of that name; a missing one is a checkpoint error that names it.
    int64_t counter(const std::string& name) const;
    /// The blob of that name; a missing one is a checkpoint error that names it.
    const std::string& blob(const std::string& name) const;
};

/// 128 random bits as 32 hex digits: the name of a training run, drawn once when it starts.
std::string new_run_id();

/// A sound checkpoint that this program or model cannot use: a newer format, another table of
/// tensors. Falling back to an older one would hide the mistake, so readers never do.
class Refused : public Error {
  public:
    Refused(const std::string& message, const char* file, int line)
        : Error(ErrorKind::checkpoint, message, file, line) {}
};

/// Where problems go that do not stop the work, one complete line each.
using Warn = std::function<void(const std::string&)>;

}  // namespace plinth::checkpoints
