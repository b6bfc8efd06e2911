// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "parallel/comm/communicator.h"

namespace plinth::parallel {

/// Name and version of the MPI library, such as "Open MPI v4.1.4". May be asked at any time.
std::string mpi_library_version();

/// The ranks of this job: initialises MPI (one thread calls it) and finalises it at the end. A
/// program that no launcher started is a world of one and never touches MPI. One per process, made
/// at the start of main and used by that thread only.
class MpiWorld {
  public:
    /// Refuses a launch whose tasks do not see each other (kind config).
    explicit MpiWorld(CommunicatorOptions options = {});
    ~MpiWorld();
    MpiWorld(const MpiWorld&) = delete;
    MpiWorld& operator=(const MpiWorld&) = delete;

    Communicator& communicator() { return *communicator_; }
    /// Place of this rank among those on the same machine.
    int local_rank() const { return local_rank_; }
    int local_size() const { return local_size_; }

    /// Runs the program and returns its exit code. An error is printed on stderr as one line that
    /// names rank and host; if there are other ranks the whole job ends with the error's exit code,
    /// for they would wait for ever.
    int run(const std::function<int(Communicator&)>& program);

  private:
    int fail(const std::string& message, ErrorKind kind);

    bool initialised_ = false;
    int local_rank_ = 0;
    int local_size_ = 1;
    std::unique_ptr<Communicator> communicator_;
};

}  // namespace plinth::parallel
