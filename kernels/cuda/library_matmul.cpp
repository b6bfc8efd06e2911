// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/library_matmul.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "kernels/cuda/check.h"
#include "kernels/cuda/matmul_finish.h"
#include "kernels/device_scratch.h"

namespace plinth::kernels::cuda {

namespace {

constexpr auto workspace_limit = static_cast<uint64_t>(matmul_workspace_limit);
constexpr int most_candidates = 8;
constexpr int timed_runs = 3;
/// A shorter product is not worth timing: what it could win is less than what timing it costs.
constexpr double shortest_timed_ms = 0.05;
/// A later proposal must be faster by more than timings scatter.
constexpr double clearly_faster = 0.98;

std::string machine_of(const Queue& queue) {
    cudaDeviceProp properties{};
    CUDA_CHECK(cudaGetDeviceProperties(&properties, queue.device()));
    return fmt::format("{}, cuBLASLt {}", properties.name, cublasLtGetVersion());
}

bool is_capturing(cudaStream_t stream) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    CUDA_CHECK(cudaStreamIsCapturing(stream, &status));
    return status != cudaStreamCaptureStatusNone;
}

cudaDataType cuda_type(Element element) {
    switch (element) {
        case Element::f32:
            return CUDA_R_32F;
        case Element::bf16:
            return CUDA_R_16BF;
        case Element::e4m3:
            return CUDA_R_8F_E4M3;
        case Element::e5m2:
            return CUDA_R_8F_E5M2;
    }
    FAIL(internal, "no type {} of cuBLASLt", static_cast<int>(element));
}

template <typename T>
T setting(const cublasLtMatmulAlgo_t& algorithm, cublasLtMatmulAlgoConfigAttributes_t attribute) {
    T value{};
    size_t written = 0;
    CUBLAS_CHECK(cublasLtMatmulAlgoConfigGetAttribute(&algorithm, attribute, &value, sizeof(value),
                                                      &written));
    return value;
}

/// One thread block sums the whole inner extent of its part of the result, in order.
bool splits_sums(const cublasLtMatmulAlgo_t& algorithm) {
    return setting<int32_t>(algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM) > 1 ||
           setting<uint32_t>(algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME) !=
               CUBLASLT_REDUCTION_SCHEME_NONE;
}

cublasLtEpilogue_t epilogue_of(const MatmulProblem& problem) {
    switch (problem.gelu) {
        case GeluEnd::forward:
            return problem.has_bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
        case GeluEnd::backward:
            return problem.has_bias_grad ? CUBLASLT_EPILOGUE_DGELU_BGRAD : CUBLASLT_EPILOGUE_DGELU;
        case GeluEnd::none:
            break;
    }
    // The library's B is the left operand here, of whose columns over the inner extent the sums
    // are.
    if (problem.has_bias_grad) return CUBLASLT_EPILOGUE_BGRADB;
    return problem.has_bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

/// Never read from.
const void* address_aligned_to(int64_t bytes) {
    return reinterpret_cast<const void*>(static_cast<uintptr_t>(bytes));
}

MatmulPreference preference_for(const MatmulProblem& problem) {
    MatmulPreference preference = make_preference();
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_limit);
    const auto a = static_cast<uint32_t>(problem.alignment_a);
    const auto b = static_cast<uint32_t>(problem.alignment_b);
    const auto d = static_cast<uint32_t>(problem.alignment_d);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, a);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, b);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, d);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, d);
    if (problem.is_reproducible) {
        const uint32_t none = CUBLASLT_REDUCTION_SCHEME_NONE;
        set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, none);
    }
    return preference;
}

}  // namespace

size_t PreparedMatmul::workspace_bytes() const {
    size_t most = 0;
    for (const Candidate& candidate : candidates)
        most = std::max(most, candidate.workspace_bytes);
    return most;
}

size_t PreparedMatmul::trial_bytes() const {
    if (is_chosen || !problem.accumulates || candidates.size() < 2) return 0;
    return static_cast<size_t>((problem.n - 1) * problem.ldd + problem.m) * bytes_of(problem.d);
}

LibraryMatmul::LibraryMatmul(Queue& queue)
    : queue_(queue),
      handle_(make_cublas_handle()),
      known_(machine_of(queue)),
      algorithms_(known_.machine()) {
    CUDA_CHECK(cudaEventCreate(&start_));
    CUDA_CHECK(cudaEventCreate(&stop_));
}

LibraryMatmul::~LibraryMatmul() {
    cudaEventDestroy(start_);
    cudaEventDestroy(stop_);
}

PreparedMatmul& LibraryMatmul::prepare(const MatmulProblem& problem) {
    const auto [place, is_new] = prepared_.try_emplace(problem);
    PreparedMatmul& matmul = place->second;
    if (is_new) {
        matmul.problem = problem;
        describe(matmul);
        if (!take_known(matmul)) propose(matmul);
    }
    return matmul;
}

void LibraryMatmul::describe(PreparedMatmul& matmul) {
    const MatmulProblem& p = matmul.problem;
    matmul.operation = make_operation(p.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F);
    const cublasOperation_t op_a = p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t op_b = p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    set(matmul.operation, CUBLASLT_MATMUL_DESC_TRANSA, op_a);
    set(matmul.operation, CUBLASLT_MATMUL_DESC_TRANSB, op_b);
    set(matmul.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(p));
    // Proposals read alignments off the addresses: every bias has at least this one.
    if (p.has_bias || p.has_bias_grad) {
        const int32_t type = cuda_type(p.d);
        set(matmul.operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type);
        set(matmul.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, address_aligned_to(16));
    }
    if (p.gelu != GeluEnd::none) {
        const int32_t type = cuda_type(p.d);
        set(matmul.operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, type);
        set(matmul.operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.ld_aux);
        set(matmul.operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER,
            address_aligned_to(p.alignment_aux));
    }
    if (p.fast_sums) set(matmul.operation, CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t{1});
    matmul.a = make_layout(cuda_type(p.a), p.rows_a(), p.columns_a(), p.lda);
    matmul.b = make_layout(cuda_type(p.b), p.rows_b(), p.columns_b(), p.ldb);
    matmul.d = make_layout(cuda_type(p.d), p.m, p.n, p.ldd);
}

bool LibraryMatmul::load_algorithms(const std::string& text) {
    if (!known_.load(text)) return false;
    for (auto& [problem, matmul] : prepared_)
        take_known(matmul);  // else it stays with what it takes
    return true;
}

/// A known algorithm, if the library takes it for this problem.
bool LibraryMatmul::take_known(PreparedMatmul& matmul) {
    const std::string key = text_of(matmul.problem);
    const Algorithm* known = known_.find(key);
    if (!known) return false;
    const auto algorithm = std::bit_cast<cublasLtMatmulAlgo_t>(*known);
    cublasLtMatmulHeuristicResult_t result{};
    const cublasStatus_t status = cublasLtMatmulAlgoCheck(
        handle_.get(), matmul.operation.get(), matmul.a.get(), matmul.b.get(), matmul.d.get(),
        matmul.d.get(), &algorithm, &result);
    if (status != CUBLAS_STATUS_SUCCESS || result.workspaceSize > workspace_limit ||
        (matmul.problem.is_reproducible && splits_sums(algorithm)))
        return false;
    matmul.candidates = {{algorithm, result.workspaceSize}};
    matmul.is_chosen = true;
    algorithms_.set(key, *known);
    return true;
}

void LibraryMatmul::propose(PreparedMatmul& matmul) {
    const MatmulPreference preference = preference_for(matmul.problem);
    cublasLtMatmulHeuristicResult_t results[most_candidates] = {};
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle_.get(), matmul.operation.get(), matmul.a.get(), matmul.b.get(), matmul.d.get(),
        matmul.d.get(), preference.get(), most_candidates, results, &count);
    // The library says either when its kernels cannot do a problem; `run` throws if it has to.
    matmul.refusal = status;
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) return;
    CUBLAS_CHECK(status);
    for (int i = 0; i < count; ++i) {
        if (results[i].state != CUBLAS_STATUS_SUCCESS) continue;
        if (matmul.problem.is_reproducible && splits_sums(results[i].algo)) continue;
        matmul.candidates.push_back({results[i].algo, results[i].workspaceSize});
        if (matmul.problem.is_reproducible) break;
    }
}

cublasStatus_t LibraryMatmul::launch(const PreparedMatmul& matmul, size_t candidate,
                                     const MatmulMemory& memory, void* d) {
    const float one = 1.0f, beta = matmul.problem.accumulates ? 1.0f : 0.0f;
    const PreparedMatmul::Candidate& chosen = matmul.candidates[candidate];
    return cublasLtMatmul(handle_.get(), matmul.operation.get(), &one, memory.a, matmul.a.get(),
                          memory.b, matmul.b.get(), &beta, d, matmul.d.get(), d, matmul.d.get(),
                          &chosen.algorithm, memory.workspace, chosen.workspace_bytes,
                          queue_.stream());
}

double LibraryMatmul::milliseconds(const PreparedMatmul& matmul, size_t candidate,
                                   const MatmulMemory& memory, int runs) {
    void* d = memory.trial ? memory.trial : memory.d;
    if (launch(matmul, candidate, memory, d) != CUBLAS_STATUS_SUCCESS)
        return std::numeric_limits<double>::infinity();
    CUDA_CHECK(cudaEventRecord(start_, queue_.stream()));
    for (int i = 0; i < runs; ++i)
        CUBLAS_CHECK(launch(matmul, candidate, memory, d));
    CUDA_CHECK(cudaEventRecord(stop_, queue_.stream()));
    queue_.before_waiting();
    CUDA_CHECK(cudaEventSynchronize(stop_));
    float elapsed = 0.0f;
    CUDA_CHECK(cudaEventElapsedTime(&elapsed, start_, stop_));
    return static_cast<double>(elapsed) / runs;
}

void LibraryMatmul::choose(PreparedMatmul& matmul, const MatmulMemory& memory) {
    size_t best = 0;
    if (matmul.candidates.size() > 1) {
        double fastest = milliseconds(matmul, 0, memory, timed_runs);
        if (fastest >= shortest_timed_ms)
            for (size_t i = 1; i < matmul.candidates.size(); ++i) {
                const double time = milliseconds(matmul, i, memory, timed_runs);
                if (time >= clearly_faster * fastest) continue;
                fastest = time;
                best = i;
            }
    }
    matmul.candidates = {matmul.candidates[best]};
    matmul.is_chosen = true;
    algorithms_.set(text_of(matmul.problem),
                    std::bit_cast<Algorithm>(matmul.candidates[0].algorithm));
}

void LibraryMatmul::run(PreparedMatmul& matmul, const MatmulMemory& memory) {
    CHECK(!matmul.candidates.empty(), "cuBLASLt has no algorithm for {} ({})",
          text_of(matmul.problem), cublasLtGetStatusString(matmul.refusal));
    if (matmul.problem.has_bias)
        set(matmul.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, memory.bias);
    if (matmul.problem.has_bias_grad)
        set(matmul.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, memory.bias_grad);
    if (matmul.problem.gelu != GeluEnd::none)
        set(matmul.operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, memory.aux);
    if (matmul.problem.has_scales()) {
        set(matmul.operation, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, memory.scale_a);
        set(matmul.operation, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, memory.scale_b);
    }
    // While a graph is captured nothing runs, so nothing can be timed.
    const bool may_choose = may_time_ || matmul.candidates.size() == 1;
    if (!matmul.is_chosen && may_choose && !is_capturing(queue_.stream())) choose(matmul, memory);
    CUBLAS_CHECK(launch(matmul, 0, memory, memory.d));
}

void run_plan(LibraryMatmul& library, PreparedMatmul& matmul, const MatmulPlan& plan,
              MatmulMemory memory, View c, ConstView bias, bool accumulate, Queue& queue) {
    const auto rounded = [](size_t bytes) { return (bytes + 255) / 256 * 256; };
    const size_t workspace = rounded(matmul.workspace_bytes());
    const size_t trial = rounded(matmul.trial_bytes());
    const size_t copied =
        plan.copies_bias ? rounded(static_cast<size_t>(c.dim(1)) * size_of(c.dtype)) : 0;
    const size_t product =
        plan.is_finished_apart
            ? rounded(static_cast<size_t>(c.dim(0) * plan.problem.ldd) * sizeof(float))
            : 0;
    const size_t all = workspace + trial + copied + product;
    auto* scratch = static_cast<std::byte*>(all > 0 ? queue.scratch(all) : nullptr);
    const auto carve = [&scratch](size_t bytes) -> void* {
        return bytes == 0 ? nullptr : std::exchange(scratch, scratch + bytes);
    };
    memory.workspace = carve(workspace);
    memory.trial = carve(trial);
    memory.bias = bias.data;
    if (void* place = carve(copied)) {
        copy_bias(place, c.dtype, bias.as<float>(), c.dim(1), queue);
        memory.bias = place;
    }
    memory.d = plan.is_finished_apart ? carve(product) : c.data;
    library.run(matmul, memory);
    if (plan.is_finished_apart)
        finish_product(c, static_cast<const float*>(memory.d), plan.problem.ldd, bias, accumulate,
                       queue);
}

}  // namespace plinth::kernels::cuda
