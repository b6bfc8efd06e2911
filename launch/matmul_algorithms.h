// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/io/file.h"
#include "core/ranks.h"
#include "kernels/algorithm_table.h"
#include "kernels/runtime/stream.h"

namespace plinth::launch {

/// Where a rank's products have their algorithms: its device's library.
class AlgorithmStore {
  public:
    virtual ~AlgorithmStore() = default;
    /// See kernels/matmul.h for each.
    virtual std::string save() = 0;
    virtual int64_t count() = 0;
    virtual bool load(const std::string& text) = 0;
    virtual void let_be_timed(bool may_time) = 0;
};

/// That of a stream, which must outlive it; null on the CPU, whose products have no choice.
std::unique_ptr<AlgorithmStore> algorithm_store_of(Stream& stream);

/// What `run.algorithm_cache` stands for: a folder; empty for "off", and where nothing is given and
/// the environment names no folder. `variable` looks up an environment variable; null: not set.
std::string algorithm_cache_folder(const std::string& key,
                                   const std::function<const char*(const char*)>& variable);

/// The file of one kind of machine in a folder, and its content: the table, and a last line
/// "crc32c<TAB>8 hexadecimal digits" of all before it.
std::string algorithm_file_name(const std::string& machine);
std::string algorithm_file(const kernels::AlgorithmTable& table);
/// Throws an error of kind io that says what is wrong: damage, or a table of another machine.
kernels::AlgorithmTable read_algorithm_file(const std::string& content, const std::string& machine);

struct AlgorithmOptions {
    std::string folder;  ///< of the files that outlive the run; empty: none
    /// One line, on rank 0 alone.
    std::function<void(const std::string&)> warn = {};
};

/// Makes all ranks with one kind of machine take the same algorithm for one product, in this run
/// and in later ones: what a file or a checkpoint knows is taken; what the first rank has timed
/// goes to the others; a product that only others have is timed there, and the lowest rank's choice
/// goes to all. Files are rank 0's business. Where no rank has a device all of it does nothing.
class MatmulAlgorithms {
  public:
    /// `store` is null on a rank without a device.
    MatmulAlgorithms(std::unique_ptr<AlgorithmStore> store, core::Ranks& ranks,
                     core::io::FileSystem& files, AlgorithmOptions options);

    /// Collective, once, before the first product. Takes what the files hold for these machines.
    void open();
    /// The same on all ranks, after `open`: from a checkpoint, what `text` gave. It goes before
    /// what files hold. Says so where nothing is there for a machine of this run.
    void resume(const std::string& stored);
    /// From now on until the next exchange only rank 0 times. For a run that exchanges after its
    /// first step: each product that rank 0 has is then timed once.
    void let_first_rank_time();

    /// True if an exchange would give the other ranks something.
    bool has_news() const;
    /// Collective. All take the algorithms of all; rank 0 writes the files.
    void exchange();
    /// The algorithms in use as of the last exchange, the same on all ranks, for a checkpoint;
    /// empty where there are none.
    std::string text() const;

  private:
    void take(const std::string& tables);
    void read_files();
    void write_files();
    kernels::AlgorithmTable file_of(const std::string& machine, bool says_why);

    std::unique_ptr<AlgorithmStore> store_;
    core::Ranks& ranks_;
    core::io::FileSystem& files_;
    AlgorithmOptions options_;
    bool is_open_ = false;               ///< and some rank has a device
    bool waits_for_exchange_ = false;    ///< some ranks do not time
    int64_t known_ = 0;                  ///< products of this rank that all know
    kernels::AlgorithmTables in_use_;    ///< on all ranks
    kernels::AlgorithmTables of_files_;  ///< on rank 0, as last read or written
};

}  // namespace plinth::launch
