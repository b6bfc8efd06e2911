// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "kernels/algorithm_table.h"
#include "kernels/cuda/cublas.h"
#include "kernels/cuda/matmul_problem.h"
#include "kernels/cuda/queue.h"

namespace plinth::kernels::cuda {

/// A problem with what the library needs to run it.
struct PreparedMatmul {
    struct Candidate {
        cublasLtMatmulAlgo_t algorithm;
        size_t workspace_bytes;
    };
    MatmulProblem problem;
    MatmulOperation operation;
    MatrixLayout a, b, d;
    /// The library's proposals, its first choice first; one when chosen. None: the library refuses
    /// the problem.
    std::vector<Candidate> candidates;
    cublasStatus_t refusal = CUBLAS_STATUS_SUCCESS;  ///< why there are none
    bool is_chosen = false;

    size_t workspace_bytes() const;  ///< the most that a candidate takes
    /// Of the memory that candidates which add to their result are timed into; 0 for all others.
    size_t trial_bytes() const;
};

/// The addresses of one call.
struct MatmulMemory {
    const void* a = nullptr;
    const void* b = nullptr;
    void* d = nullptr;
    const void* bias = nullptr;
    void* bias_grad = nullptr;
    const void* aux = nullptr;      ///< GeluEnd::forward writes it
    const void* scale_a = nullptr;  ///< fp32, of 8-bit operands
    const void* scale_b = nullptr;
    void* workspace = nullptr;
    void* trial = nullptr;
};

/// A queue's products by cuBLASLt. The first call of each problem chooses its algorithm: that of a
/// loaded table, else by timing the library's proposals, or in reproducible mode the first that
/// does not split sums.
class LibraryMatmul {
  public:
    explicit LibraryMatmul(Queue& queue);
    ~LibraryMatmul();
    LibraryMatmul(const LibraryMatmul&) = delete;
    LibraryMatmul& operator=(const LibraryMatmul&) = delete;

    PreparedMatmul& prepare(const MatmulProblem& problem);
    void run(PreparedMatmul& matmul, const MatmulMemory& memory);

    /// What problems so far take, to be kept for later runs on the same kind of machine.
    const AlgorithmTable& algorithms() const { return algorithms_; }
    /// See kernels::load_matmul_algorithms.
    bool load_algorithms(const std::string& text);
    /// See kernels::let_matmul_be_timed.
    void let_time(bool may_time) { may_time_ = may_time; }

  private:
    void describe(PreparedMatmul& matmul);
    void propose(PreparedMatmul& matmul);
    bool take_known(PreparedMatmul& matmul);
    void choose(PreparedMatmul& matmul, const MatmulMemory& memory);
    double milliseconds(const PreparedMatmul& matmul, size_t candidate, const MatmulMemory& memory,
                        int runs);
    cublasStatus_t launch(const PreparedMatmul& matmul, size_t candidate,
                          const MatmulMemory& memory, void* d);

    Queue& queue_;
    CublasHandle handle_;
    cudaEvent_t start_ = nullptr, stop_ = nullptr;
    AlgorithmTable known_;       ///< of loaded texts
    AlgorithmTable algorithms_;  ///< in use
    bool may_time_ = true;
    std::unordered_map<MatmulProblem, PreparedMatmul, MatmulProblemHash> prepared_;
};

/// Runs a plan from the library's operands (a, b and their scales in `memory`) into c.
void run_plan(LibraryMatmul& library, PreparedMatmul& matmul, const MatmulPlan& plan,
              MatmulMemory memory, View c, ConstView bias, bool accumulate, Queue& queue);

}  // namespace plinth::kernels::cuda
