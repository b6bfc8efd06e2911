// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/graph.h"

#include "kernels/cuda/check.h"

namespace plinth::kernels::cuda {

namespace {

struct GraphDeleter {
    void operator()(cudaGraph_t graph) const { cudaGraphDestroy(graph); }
};
using OwnedGraph = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, GraphDeleter>;

/// Takes the stream out of its capture, which an error has ended or made worthless.
void abandon(cudaStream_t stream) {
    cudaGraph_t graph = nullptr;
    cudaStreamEndCapture(stream, &graph);
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError();  // of a capture that is over
}

}  // namespace

std::unique_ptr<CapturedGraph> CapturedGraph::capture(cudaStream_t stream,
                                                      FunctionRef<void()> work) {
    // Thread local: a save's thread may copy and wait meanwhile, on a stream of its own.
    CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    try {
        work();
    } catch (...) {
        abandon(stream);
        throw;
    }
    cudaGraph_t captured = nullptr;
    CUDA_CHECK(cudaStreamEndCapture(stream, &captured));
    const OwnedGraph graph(captured);
    size_t nodes = 0;
    CUDA_CHECK(cudaGraphGetNodes(graph.get(), nullptr, &nodes));
    cudaGraphExec_t executable = nullptr;
    CUDA_CHECK(cudaGraphInstantiate(&executable, graph.get(), 0));
    return std::unique_ptr<CapturedGraph>(new CapturedGraph(stream, executable, nodes));
}

CapturedGraph::~CapturedGraph() {
    cudaGraphExecDestroy(executable_);
}

void CapturedGraph::launch() {
    CUDA_CHECK(cudaGraphLaunch(executable_, stream_));
}

}  // namespace plinth::kernels::cuda
