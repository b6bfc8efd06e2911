// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace plinth::launch {

/// What one rank found of its machine.
struct RankReport {
    std::string host;
    std::string program;            ///< Plinth, compiler, libraries and instruction set
    std::string nccl;               ///< its version; empty: there is none
    std::string no_nccl;            ///< why
    std::vector<std::string> gpus;  ///< a line each, of those that this process sees
    std::string no_gpu;             ///< why there is none
    std::vector<int> cores;         ///< those that the process may use
    int threads = 1;
    double memory = 0.0;   ///< of the host, bytes
    double fp32 = 0.0;     ///< FLOP/s of matrix products, all ranks computing at once
    double bf16 = 0.0;     ///< the same in bf16
    double copy = 0.0;     ///< bytes/s read and written, all ranks at once
    double latency = 0.0;  ///< of a message to the next rank and one from the rank before, s
    double link = 0.0;     ///< bytes/s to the next rank, all ranks sending at once
    bool operator==(const RankReport&) const = default;
};

std::string encode(const RankReport& report);
RankReport decode(const std::string& text);

/// The GPUs of every machine, as its first rank sees them, and NCCL; machines that have the same
/// are named together.
std::string devices_text(const std::vector<RankReport>& ranks);

/// One complete line on each thing that will slow a run down or change its bits.
std::vector<std::string> problems_of(const std::vector<RankReport>& ranks);

/// `plinth doctor [folder=PATH]`: measures the machine of every rank and prints its devices, a
/// table, the rate of the disk that holds a folder, the current one if none is named, and the
/// problems. The exit code says whether there are problems.
int doctor(const std::vector<std::string>& words);

}  // namespace plinth::launch
