// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/attention_cudnn.h"

#define CUDNN_FRONTEND_SKIP_JSON_LIB  // halves the time to compile
#include <cudnn_frontend.h>

#include <map>
#include <unordered_map>

#include "kernels/cuda/check.h"
#include "kernels/device_scratch.h"

namespace plinth::kernels::cuda {

namespace {

namespace fe = cudnn_frontend;

using Pointers = std::unordered_map<int64_t, void*>;

/// Names of a graph's tensors.
enum Uid : int64_t { q_uid = 1, k_uid, v_uid, y_uid, stats_uid, dy_uid, dq_uid, dk_uid, dv_uid };

/// One head range of a token's row: dims [B, heads, T, K] over rows of `columns` elements.
fe::graph::Tensor_attributes heads_of(const AttentionGraph& graph, const char* name, Uid uid,
                                      int64_t heads, int64_t columns) {
    return fe::graph::Tensor_attributes()
        .set_name(name)
        .set_uid(uid)
        .set_data_type(fe::DataType_t::BFLOAT16)
        .set_dim({graph.batch, heads, graph.tokens, graph.width})
        .set_stride({graph.tokens * columns, graph.width, columns, 1});
}

int64_t packed_columns(const AttentionGraph& graph) {
    return (graph.heads + 2 * graph.kv_heads) * graph.width;
}

fe::graph::Tensor_attributes stats_of(const AttentionGraph& graph) {
    return fe::graph::Tensor_attributes()
        .set_name("log_sum")
        .set_uid(stats_uid)
        .set_data_type(fe::DataType_t::FLOAT)
        .set_dim({graph.batch, graph.heads, graph.tokens, 1})
        .set_stride({graph.heads * graph.tokens, graph.tokens, 1, 1});
}

using Tensor = std::shared_ptr<fe::graph::Tensor_attributes>;

/// Gives a result of an operation the layout of `as`.
void place(const Tensor& result, const fe::graph::Tensor_attributes& as) {
    result->set_output(true)
        .set_name(as.get_name())
        .set_uid(as.get_uid())
        .set_data_type(as.get_data_type())
        .set_dim(as.get_dim())
        .set_stride(as.get_stride());
}

/// The masks that both passes take in the same words.
template <typename Options>
Options& set_masks(Options& options, const AttentionGraph& graph) {
    options.set_attn_scale(graph.scale);
    if (graph.causal)
        options.set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
            .set_diagonal_band_right_bound(0);
    if (graph.window > 0) options.set_diagonal_band_left_bound(graph.window);
    return options;
}

/// For devices of that compute capability: nodes take it along when they are added.
template <typename Graph = fe::graph::Graph>
std::shared_ptr<Graph> described(const AttentionGraph& graph, int capability) {
    auto result = std::make_shared<Graph>();
    result->set_sm_version(capability)
        .set_io_data_type(fe::DataType_t::BFLOAT16)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    const int64_t packed = packed_columns(graph), rows = graph.heads * graph.width;
    const Tensor q = result->tensor(heads_of(graph, "q", q_uid, graph.heads, packed));
    const Tensor k = result->tensor(heads_of(graph, "k", k_uid, graph.kv_heads, packed));
    const Tensor v = result->tensor(heads_of(graph, "v", v_uid, graph.kv_heads, packed));
    const auto y = heads_of(graph, "y", y_uid, graph.heads, rows);
    if (!graph.is_backward) {
        auto options = fe::graph::SDPA_attributes().set_name("attention").set_generate_stats(true);
        const auto [out, stats] = result->sdpa(q, k, v, set_masks(options, graph));
        place(out, y);
        place(stats, stats_of(graph));
        return result;
    }
    auto options = fe::graph::SDPA_backward_attributes()
                       .set_name("attention_gradients")
                       .set_deterministic_algorithm(graph.is_deterministic);
    const auto [dq, dk, dv] =
        result->sdpa_backward(q, k, v, result->tensor(y),
                              result->tensor(heads_of(graph, "dy", dy_uid, graph.heads, rows)),
                              result->tensor(stats_of(graph)), set_masks(options, graph));
    place(dq, heads_of(graph, "dq", dq_uid, graph.heads, packed));
    place(dk, heads_of(graph, "dk", dk_uid, graph.kv_heads, packed));
    place(dv, heads_of(graph, "dv", dv_uid, graph.kv_heads, packed));
    return result;
}

/// A graph that is ready to run, or none with the reason.
struct Plan {
    std::shared_ptr<fe::graph::Graph> graph;
    size_t workspace_bytes = 0;
    std::string refusal;
};

Plan planned(const AttentionGraph& graph, cudnnHandle_t handle, int capability) {
    Plan plan{.graph = described(graph, capability)};
    fe::error_t status = plan.graph->build(handle, {fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK});
    int64_t bytes = 0;
    if (status.is_good()) status = plan.graph->get_workspace_size(bytes);
    if (status.is_bad())
        plan.refusal = status.get_message();
    else if (bytes > cudnn_workspace_limit)
        plan.refusal = fmt::format("a workspace of {} bytes is too large", bytes);
    if (!plan.refusal.empty()) plan.graph.reset();
    plan.workspace_bytes = static_cast<size_t>(bytes);
    return plan;
}

/// A queue's handle of cuDNN and its plans.
class CudnnAttention {
  public:
    explicit CudnnAttention(Queue& queue)
        : queue_(queue), capability_(capability_of(queue.device())) {
        check(cudnnCreate(&handle_), "cudnnCreate");
        check(cudnnSetStream(handle_, queue.stream()), "cudnnSetStream");
    }
    ~CudnnAttention() {
        plans_.clear();
        cudnnDestroy(handle_);
    }
    CudnnAttention(const CudnnAttention&) = delete;
    CudnnAttention& operator=(const CudnnAttention&) = delete;

    const std::string& run(const AttentionGraph& graph, Pointers pointers) {
        const Plan& plan = plan_of(graph);
        if (!plan.graph) return plan.refusal;
        void* workspace = plan.workspace_bytes > 0 ? queue_.scratch(plan.workspace_bytes) : nullptr;
        fe::error_t status = plan.graph->execute(handle_, pointers, workspace);
        REQUIRE(io, status.is_good(), "cuDNN: attention failed: {}", status.get_message());
        return plan.refusal;
    }

  private:
    static void check(cudnnStatus_t status, const char* call) {
        REQUIRE(io, status == CUDNN_STATUS_SUCCESS, "cuDNN: {} in {}", cudnnGetErrorString(status),
                call);
    }

    const Plan& plan_of(const AttentionGraph& graph) {
        const auto found = plans_.find(graph);
        if (found != plans_.end()) return found->second;
        return plans_.emplace(graph, planned(graph, handle_, capability_)).first->second;
    }

    Queue& queue_;
    int capability_;
    cudnnHandle_t handle_ = nullptr;
    std::map<AttentionGraph, Plan> plans_;
};

/// Pointers to the query, key and value heads of packed rows.
template <typename Row>
void add_packed(Pointers& pointers, const AttentionShape& shape, Row* packed, Uid q, Uid k, Uid v) {
    auto* row = const_cast<BFloat16*>(packed);  // cuDNN does not write to inputs
    pointers[q] = row;
    pointers[k] = row + shape.heads * shape.width;
    pointers[v] = row + (shape.heads + shape.kv_heads) * shape.width;
}

AttentionGraph graph_of(const AttentionShape& shape, const Attention& options) {
    return {.batch = shape.batch,
            .tokens = shape.tokens,
            .heads = shape.heads,
            .kv_heads = shape.kv_heads,
            .width = shape.width,
            .scale = shape.scale,
            .causal = options.causal,
            .window = options.window < shape.tokens ? options.window : 0};
}

void* writable(ConstView input) {
    return const_cast<void*>(input.data);
}

/// A graph whose workspace is asked for where no plan can be made, for want of a device: what the
/// library says of the engine that it would take, and what the graph itself puts aside. `build`
/// makes the first plan that is supported.
class AskedGraph final : public fe::graph::Graph {
  public:
    fe::error_t workspace(int64_t& bytes) {
        for (int64_t i = 0; i < get_execution_plan_count(); ++i) {
            if (plans.check_support_at_index(i).is_bad()) continue;
            // The library's own number stands in the message of the refusal.
            plans.set_max_workspace_allowed(-1);
            const std::string message = plans.check_support_at_index(i).get_message();
            const std::string before = "workspace violation. Requires ";
            const size_t place = message.find(before);
            if (place == std::string::npos) break;
            bytes =
                std::stoll(message.substr(place + before.size())) + get_fe_workspace_size_subtree();
            return {fe::error_code_t::OK, ""};
        }
        return {fe::error_code_t::GRAPH_NOT_SUPPORTED, "no engine says its workspace"};
    }
};

}  // namespace

int capability_of(int device) {
    int major = 0, minor = 0;
    CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
    return 10 * major + minor;
}

const std::string& cudnn_attention_forward(View y, View log_sum, ConstView qkv,
                                           const AttentionShape& shape, const Attention& options,
                                           Queue& queue) {
    Pointers pointers{{y_uid, y.data}, {stats_uid, log_sum.data}};
    add_packed(pointers, shape, qkv.as<BFloat16>(), q_uid, k_uid, v_uid);
    return queue.state<CudnnAttention>().run(graph_of(shape, options), std::move(pointers));
}

const std::string& cudnn_attention_backward(View dqkv, ConstView dy, ConstView y, ConstView log_sum,
                                            ConstView qkv, const AttentionShape& shape,
                                            const Attention& options, Queue& queue) {
    Pointers pointers{{y_uid, writable(y)}, {dy_uid, writable(dy)}, {stats_uid, writable(log_sum)}};
    add_packed(pointers, shape, qkv.as<BFloat16>(), q_uid, k_uid, v_uid);
    add_packed(pointers, shape, dqkv.as<BFloat16>(), dq_uid, dk_uid, dv_uid);
    AttentionGraph graph = graph_of(shape, options);
    graph.is_backward = true;
    graph.is_deterministic = queue.options().reproducible;
    return queue.state<CudnnAttention>().run(graph, std::move(pointers));
}

AttentionGraphCheck check_attention_graph(const AttentionGraph& graph, const std::string& device,
                                          int capability) {
    auto properties = std::make_shared<fe::DeviceProperties>();
    fe::error_t status = properties->deserialize({device.begin(), device.end()});
    if (status.is_bad()) return {.refusal = "device description: " + status.get_message()};
    const auto built = described<AskedGraph>(graph, capability);
    built->set_device_properties(properties);
    status = built->validate();
    if (status.is_good()) status = built->build_operation_graph();
    if (status.is_good())
        status = built->create_execution_plans({fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK});
    if (status.is_good()) status = built->check_support();
    AttentionGraphCheck check;
    if (status.is_good()) status = built->workspace(check.workspace_bytes);
    if (status.is_bad()) check.refusal = status.get_message();
    return check;
}

}  // namespace plinth::kernels::cuda
