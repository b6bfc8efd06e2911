// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "kernels/runtime/function_ref.h"
#include "kernels/runtime/graph.h"

namespace plinth::kernels::cuda {

/// A CUDA graph, ready to be launched on the stream that it was captured from.
class CapturedGraph final : public Graph {
  public:
    /// What `work` gives to the stream, of which nothing is done. Other threads may use the device
    /// meanwhile. An error of `work`, such as a wait for the stream, ends the capture and goes on.
    static std::unique_ptr<CapturedGraph> capture(cudaStream_t stream, FunctionRef<void()> work);
    ~CapturedGraph() override;
    CapturedGraph(const CapturedGraph&) = delete;
    CapturedGraph& operator=(const CapturedGraph&) = delete;

    void launch() override;
    size_t size() const override { return nodes_; }

  private:
    CapturedGraph(cudaStream_t stream, cudaGraphExec_t executable, size_t nodes)
        : stream_(stream), executable_(executable), nodes_(nodes) {}

    cudaStream_t stream_;
    cudaGraphExec_t executable_;
    size_t nodes_;
};

}  // namespace plinth::kernels::cuda
