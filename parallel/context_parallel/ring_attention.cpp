// SPDX-License-Identifier: Apache-2.0
// B batch, T tokens of this rank, H query heads, G key/value heads, K head width, c ranks.
#include "parallel/context_parallel/ring_attention.h"

#include "core/autograd/scope.h"
#include "kernels/add.h"
#include "kernels/attention_part.h"
#include "kernels/cast.h"
#include "kernels/kv_cache.h"
#include "parallel/comm/view_bytes.h"
#include "parallel/context_parallel/zigzag.h"

namespace plinth::parallel {

using core::Batch;
using core::NodeGradients;
using core::SavedTensor;
using core::Scope;
using core::SequencePart;
using core::Tensor;
using core::nn::InnerAttentionCall;

namespace {

/// Keys and values [2, B, T, G*K], or their gradients.
struct KeysValues {
    template <typename V>
    static V keys(V both) {
        return of(both, 0);
    }
    template <typename V>
    static V values(V both) {
        return of(both, 1);
    }

  private:
    template <typename V>
    static V of(V both, int64_t which) {
        V one = both.narrow(0, which, 1);
        one.shape = {both.dim(1), both.dim(2), both.dim(3)};
        std::copy(both.strides.begin() + 1, both.strides.end(), one.strides.begin());
        return one;
    }
};

/// A tensor on its way to the next rank, and that of the previous one on its way here.
class Passing {
  public:
    Passing() = default;  ///< nothing
    Passing(Communicator& group, const std::string& label, Tensor own)
        : own_(std::move(own)), coming_(Scope::current().empty(own_.shape(), own_.dtype())) {
        const int ranks = group.size();
        sending_ =
            group.start_send(label, bytes_of(std::as_const(own_).in()), (group.rank() + 1) % ranks);
        receiving_ =
            group.start_receive(label, bytes_of(coming_.out()), (group.rank() + ranks - 1) % ranks);
    }
    /// What has come; undefined where nothing was under way.
    Tensor wait() {
        sending_.wait();
        receiving_.wait();
        own_ = {};
        return std::move(coming_);
    }

  private:
    Tensor own_, coming_;
    Pending sending_, receiving_;
};

/// One attention of one micro-batch, as both of its passes see it.
class Ring {
  public:
    Ring(Communicator& group, const InnerAttentionCall& call, const Batch& batch, Tensor slopes)
        : group_(group),
          options_(call.options),
          part_(batch.part),
          slopes_(std::move(slopes)),
          documents_(batch.document_ids),
          samples_(batch.sample_ids),
          label_(fmt::format("blocks.{}.attention", call.layer)) {
        const Scope& scope = Scope::current();
        if (!scope.training()) options_.dropout = 0.0f;
        if (options_.dropout > 0.0f) options_.random = scope.random_key(call.dropout_name);
    }

    /// y fp32 [B, T, H*K] and log_sum of qkv.
    void forward(Tensor& y, Tensor& log_sum, const Tensor& qkv) const {
        Tensor held = keys_and_values(qkv);
        for (int step = 0; step < group_.size(); ++step) {
            Passing keys = pass_keys(step, held, "keys");
            for_visible_runs(step, [&](const Runs& runs, const kernels::AttentionPart& part) {
                kernels::attention_part_forward(
                    runs.queries(y.out()), log_sum.out().narrow(2, runs.query, part_.run),
                    runs.queries(queries(qkv.in())), runs.keys(KeysValues::keys(held.in())),
                    runs.keys(KeysValues::values(held.in())), mask(), part, options_, stream());
            });
            held = keys.wait();
        }
    }

    /// In the layout of qkv.
    Tensor backward(const Tensor& dy, const Tensor& y, const Tensor& log_sum,
                    const Tensor& qkv) const {
        Tensor own = zeros(qkv.shape());
        Tensor held = keys_and_values(qkv);
        Passing sums;
        for (int step = 0; step < group_.size(); ++step) {
            Passing keys = pass_keys(step, held, "keys backward");
            // Of this rank's own keys at home, of others' beside what other ranks have summed.
            Tensor share = step == 0 ? Tensor() : zeros(held.shape());
            const View dk = step == 0 ? key_columns(own.out()) : KeysValues::keys(share.out());
            const View dv = step == 0 ? value_columns(own.out()) : KeysValues::values(share.out());
            for_visible_runs(step, [&](const Runs& runs, const kernels::AttentionPart& part) {
                kernels::attention_part_backward(
                    runs.queries(queries(own.out())), runs.keys(dk), runs.keys(dv),
                    runs.queries(dy.in()), runs.queries(y.in()),
                    log_sum.in().narrow(2, runs.query, part_.run), runs.queries(queries(qkv.in())),
                    runs.keys(KeysValues::keys(held.in())),
                    runs.keys(KeysValues::values(held.in())), mask(), part, options_, stream());
            });
            if (step > 0) {
                if (const Tensor before = sums.wait(); before.defined())
                    kernels::add(share.out(), before.in(), share.in(), stream());
                sums = Passing(group_, label_ + " key gradients", std::move(share));
            }
            held = keys.wait();
        }
        const Tensor others = sums.wait();
        Tensor dqkv = Scope::current().empty(qkv.shape(), qkv.dtype());
        kernels::attention_part_join(dqkv.out(), own.in(), others.in(), stream());
        return dqkv;
    }

  private:
    /// First tokens, in this rank's and in the holder's part, of a run of queries and one of keys.
    struct Runs {
        int64_t query, key, run;
        template <typename V>
        V queries(V view) const {
            return view.narrow(1, query, run);
        }
        template <typename V>
        V keys(V view) const {
            return view.narrow(1, key, run);
        }
    };

    /// Each run of this rank's queries with each run of the keys that it holds in that step, where
    /// the first can see any of the second.
    template <typename Body>
    void for_visible_runs(int step, Body&& body) const {
        const int ranks = group_.size(), holder = (group_.rank() + ranks - step) % ranks;
        const SequencePart theirs = zigzag_part(part_.whole, holder, ranks);
        for (size_t key = 0; key < 2; ++key)
            for (size_t query = 0; query < 2; ++query) {
                if (options_.causal && theirs.first[key] > part_.first[query]) continue;
                const bool begins = step == 0 && key == 0;  // gives y its first value, seen or not
                const int64_t behind = theirs.first[key] + part_.run;
                if (options_.window > 0 && !begins &&
                    behind <= part_.first[query] - options_.window + 1)
                    continue;
                body(Runs{static_cast<int64_t>(query) * part_.run,
                          static_cast<int64_t>(key) * part_.run, part_.run},
                     kernels::AttentionPart{part_.first[query], theirs.first[key], part_.whole,
                                            begins});
                group_.progress();
            }
    }

    /// Towards the next rank, but for the last step's.
    Passing pass_keys(int step, const Tensor& held, const char* what) const {
        if (step + 1 == group_.size()) return {};
        return Passing(group_, fmt::format("{} {}", label_, what), held);
    }

    int64_t width_of(const Tensor& qkv) const {
        return qkv.dim(2) / (options_.heads + 2 * options_.kv_heads);
    }
    Tensor keys_and_values(const Tensor& qkv) const {
        const Scope& scope = Scope::current();
        Tensor both = scope.empty({2, qkv.dim(0), qkv.dim(1), options_.kv_heads * width_of(qkv)},
                                  qkv.dtype());
        const Tensor starts =
            scope.of(std::vector<int32_t>(static_cast<size_t>(qkv.dim(0))), {qkv.dim(0)});
        kernels::kv_cache_append(KeysValues::keys(both.out()), KeysValues::values(both.out()),
                                 qkv.in(), starts.in(), stream());
        return both;
    }
    /// Columns of packed qkv, or of its gradient.
    template <typename V>
    V heads(V packed, int64_t first, int64_t count) const {
        const int64_t width = packed.dim(2) / (options_.heads + 2 * options_.kv_heads);
        return packed.narrow(2, first * width, count * width);
    }
    template <typename V>
    V queries(V packed) const {
        return heads(packed, 0, options_.heads);
    }
    template <typename V>
    V key_columns(V packed) const {
        return heads(packed, options_.heads, options_.kv_heads);
    }
    template <typename V>
    V value_columns(V packed) const {
        return heads(packed, options_.heads + options_.kv_heads, options_.kv_heads);
    }

    static Stream& stream() { return Scope::current().stream(); }
    static Tensor zeros(const Shape& shape) {
        Tensor tensor = Scope::current().empty(shape, DType::f32);
        const View view = tensor.out();
        stream().set_zero(view.data, view.bytes());
        return tensor;
    }
    kernels::AttentionMask mask() const { return {slopes_.in(), documents_.in(), samples_.in()}; }

    Communicator& group_;
    kernels::Attention options_;
    SequencePart part_;
    Tensor slopes_, documents_, samples_;
    std::string label_;
};

}  // namespace

Tensor RingAttention::attend(const InnerAttentionCall& call, const Tensor& qkv,
                             const Batch& batch) const {
    if (batch.part.is_whole()) return core::nn::full_attention().attend(call, qkv, batch);
    Scope& scope = Scope::current();
    const kernels::Attention& options = call.options;
    const int64_t columns = options.heads + 2 * options.kv_heads;
    CHECK(qkv.shape().rank() == 3 && qkv.dim(2) % columns == 0 && qkv.dim(1) == 2 * batch.part.run,
          "attention of layer {}: qkv {} of sequences of which this rank has 2 x {} tokens",
          call.layer, qkv.shape().text(), batch.part.run);
    const int64_t B = qkv.dim(0), T = qkv.dim(1);
    const Ring ring(group_, call, batch, call.slopes.get());
    Tensor sum = scope.empty({B, T, qkv.dim(2) / columns * options.heads}, DType::f32);
    Tensor log_sum = scope.empty({B, options.heads, T}, DType::f32);
    ring.forward(sum, log_sum, qkv);
    Tensor y = sum;
    if (qkv.dtype() != DType::f32) {
        y = scope.empty(sum.shape(), qkv.dtype());
        kernels::cast(y.out(), sum.in(), scope.stream());
    }
    if (scope.tape())
        scope.tape()->record(
            "ring_attention", {&qkv}, {&y},
            [ring, qkv = SavedTensor(qkv), y = SavedTensor(y),
             log_sum = SavedTensor(log_sum)](NodeGradients& gradients) {
                if (!gradients.wants_input(0)) return;
                gradients.set_input(
                    0, ring.backward(gradients.of_output(0), y.get("ring_attention"),
                                     log_sum.get("ring_attention"), qkv.get("ring_attention")));
            });
    return y;
}

}  // namespace plinth::parallel
