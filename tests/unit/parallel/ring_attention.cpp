// SPDX-License-Identifier: Apache-2.0
#include "parallel/context_parallel/ring_attention.h"

#include <gtest/gtest.h>

#include <limits>

#include "parallel/comm/threads.h"
#include "parallel/context_parallel/zigzag.h"
#include "tests/support/altered_group.h"
#include "tests/support/op_fixture.h"
#include "tests/support/surroundings.h"

namespace plinth::test {
namespace {

using core::Batch;
using core::Tensor;
using parallel::Communicator;

struct RingCase {
    const char* name;
    int64_t batch, tokens, heads, kv_heads, width;
    bool causal = true, alibi = false, documents = false;
    float dropout = 0.0f;

    int64_t columns() const { return (heads + 2 * kv_heads) * width; }
    core::nn::InnerAttentionCall call() const {
        return {
            .layer = 3,
            .options = {.heads = heads, .kv_heads = kv_heads, .causal = causal, .dropout = dropout},
            .alibi = alibi,
            .all_heads = heads,
            .dropout_name = "blocks.3.attention.weights"};
    }
};

/// Lengths that 1, 2, 3 and 6 ranks share; runs shorter and longer than a block of 64.
const std::vector<RingCase> cases = {
    {"plain", 2, 48, 2, 2, 8},
    {"long", 1, 480, 2, 1, 16},
    {"bidirectional", 2, 96, 2, 2, 5, false},
    {"alibi", 1, 96, 3, 3, 8, true, true},
    {"documents", 2, 192, 4, 2, 8, true, false, true},
    {"bidirectional documents", 1, 96, 2, 2, 8, false, false, true},
    {"dropout", 2, 96, 2, 2, 8, true, false, false, 0.25f},
    {"everything", 2, 144, 4, 2, 12, true, true, true, 0.1f}};

/// Output and gradient of qkv, of whole sequences in their order.
struct Passed {
    std::vector<double> y, dqkv;
};

/// Rows of a tensor [B, T, columns] of whole sequences that are those of this part.
std::vector<float> rows_of(const std::vector<float>& whole, const RingCase& c, int64_t columns,
                           const core::SequencePart& part) {
    const int64_t tokens = part.is_whole() ? c.tokens : 2 * part.run;
    std::vector<float> rows;
    for (int64_t b = 0; b < c.batch; ++b)
        for (int64_t t = 0; t < tokens; ++t) {
            const auto row = whole.begin() + (b * c.tokens + part.position(t)) * columns;
            rows.insert(rows.end(), row, row + columns);
        }
    return rows;
}

void put_rows(std::vector<double>& whole, const Tensor& mine, const RingCase& c,
              const core::SequencePart& part) {
    const std::vector<double> values = to_doubles(mine);
    const int64_t tokens = mine.dim(1), columns = mine.dim(2);
    for (int64_t b = 0; b < c.batch; ++b)
        for (int64_t t = 0; t < tokens; ++t)
            std::copy_n(values.begin() + (b * tokens + t) * columns, columns,
                        whole.begin() + (b * c.tokens + part.position(t)) * columns);
}

Tensor of_type(const std::vector<float>& values, const Shape& shape, DType dtype,
               Surroundings& here) {
    if (dtype == DType::f32) return Tensor::of(values, shape, here.allocator);
    return Tensor::of(std::vector<BFloat16>(values.begin(), values.end()), shape, here.allocator);
}

/// Makes what RingAttention gets of a group.
using Between = std::function<std::unique_ptr<Communicator>(Communicator&)>;

Passed pass(const RingCase& c, int ranks, DType dtype, const Between& between = {}) {
    const int64_t y_columns = c.heads * c.width;
    const auto qkv_values = random_values(c.batch * c.tokens * c.columns(), "qkv"),
               dy_values = random_values(c.batch * c.tokens * y_columns, "dy");
    Passed all{std::vector<double>(dy_values.size()), std::vector<double>(qkv_values.size())};
    parallel::run_as_threads(ranks, [&](Communicator& sound) {
        const auto made = between ? between(sound) : nullptr;
        Communicator& group = made ? *made : sound;
        Surroundings here(1);
        core::Tape tape;
        const core::Scope scope(here.settings(&tape));
        const core::SequencePart part = parallel::zigzag_part(c.tokens, sound.rank(), ranks);
        const int64_t tokens = c.tokens / ranks;
        Tensor qkv = of_type(rows_of(qkv_values, c, c.columns(), part),
                             {c.batch, tokens, c.columns()}, dtype, here);
        const Tensor dy = of_type(rows_of(dy_values, c, y_columns, part),
                                  {c.batch, tokens, y_columns}, dtype, here);
        std::vector<int32_t> documents;
        std::vector<int64_t> samples;
        for (int64_t b = 0; b < c.batch; ++b) {
            samples.push_back(5'000'000'000 + b);
            for (int64_t t = 0; t < c.tokens; ++t)
                documents.push_back(static_cast<int32_t>(7 * b + (t + 11 * b) / 29));
        }
        Batch batch{.sample_ids = Tensor::of(samples, {c.batch}, here.allocator), .part = part};
        if (c.documents)
            batch.document_ids = Tensor::of(documents, {c.batch, c.tokens}, here.allocator);
        tape.watch(qkv);
        const Tensor y = parallel::RingAttention(group).attend(c.call(), qkv, batch);
        const auto dqkv = tape.backward({{y, dy}}, {&qkv, 1});
        put_rows(all.y, y, c, part);  // ranks write apart
        put_rows(all.dqkv, dqkv[0], c, part);
    });
    return all;
}

/// In parts of the largest element of b; of what is no number, infinite.
double distance(const std::vector<double>& a, const std::vector<double>& b) {
    double furthest = 0.0, largest = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
        if (std::isnan(a[i])) return std::numeric_limits<double>::infinity();
        furthest = std::max(furthest, std::abs(a[i] - b[i]));
        largest = std::max(largest, std::abs(b[i]));
    }
    return furthest / largest;
}

TEST(RingAttention, EqualsAttentionOfTheWholeSequenceForwardsAndBackwards) {
    for (const RingCase& c : cases)
        for (const int ranks : {2, 3, 6}) {
            const Passed one = pass(c, 1, DType::f32), ring = pass(c, ranks, DType::f32);
            EXPECT_LT(distance(ring.y, one.y), 2e-6) << c.name << " " << ranks;
            EXPECT_LT(distance(ring.dqkv, one.dqkv), 4e-6) << c.name << " " << ranks;
        }
}

TEST(RingAttention, InBf16DiffersByRoundingOnly) {
    for (const RingCase& c : cases)
        for (const int ranks : {2, 6}) {
            const Passed one = pass(c, 1, DType::bf16), ring = pass(c, ranks, DType::bf16);
            EXPECT_LT(distance(ring.y, one.y), 1e-2) << c.name << " " << ranks;
            EXPECT_LT(distance(ring.dqkv, one.dqkv), 1e-2) << c.name << " " << ranks;
        }
}

TEST(RingAttentionMutants, KeysThatAreLostOrGoAstrayShow) {
    const RingCase c = cases[0];
    const auto without = [&](const char* label) {
        return pass(c, 3, DType::f32, [label](Communicator& sound) {
            return std::make_unique<AlteredGroup>(sound, dropping(label));
        });
    };
    const Passed one = pass(c, 1, DType::f32);
    const Passed keys = without("attention keys");
    EXPECT_GT(distance(keys.y, one.y), 1e-2);
    const Passed sums = without("key gradients");
    EXPECT_LT(distance(sums.y, one.y), 2e-6);
    EXPECT_GT(distance(sums.dqkv, one.dqkv), 1e-2);
}

/// Takes itself for the rank after it: messages come from and go to the right neighbours, but what
/// they hold is taken for the tokens of another rank.
class TurnedGroup final : public Communicator {
  public:
    explicit TurnedGroup(Communicator& sound)
        : Communicator((sound.rank() + 1) % sound.size(), sound.size(), sound.host(), {}),
          sound_(sound) {}
    std::unique_ptr<Communicator> split(int color, std::string name) override {
        return sound_.split(color, std::move(name));
    }
    void progress() override { sound_.progress(); }
    void abort(const std::string& reason, ErrorKind kind) override { sound_.abort(reason, kind); }

  protected:
    struct Forwarded final : parallel::Transfer {
        parallel::Pending pending;
        bool test() override { return pending.test(); }
    };
    std::unique_ptr<parallel::Transfer> exchange(const Call& call, std::vector<Outgoing> sends,
                                                 std::vector<Incoming> receives) override {
        CHECK(call.channel == Call::Channel::message, "{}: no message", call.label);
        const auto real = [this](int peer) { return (peer + size() - 1) % size(); };
        auto transfer = std::make_unique<Forwarded>();
        transfer->pending =
            sends.empty()
                ? sound_.start_receive(call.label, receives[0].bytes, real(receives[0].peer))
                : sound_.start_send(call.label, sends[0].bytes, real(sends[0].peer));
        return transfer;
    }
    void relax(std::chrono::duration<double>) override { sound_.progress(); }
    std::string missing_ranks(int64_t) override { return ""; }

  private:
    Communicator& sound_;
};

TEST(RingAttentionMutants, RanksThatChangePlacesShow) {
    const auto turned = [](Communicator& sound) { return std::make_unique<TurnedGroup>(sound); };
    for (const RingCase& c : cases) {
        // Without masks, positions and dropout the order of keys decides nothing.
        if (std::string(c.name) == "bidirectional") continue;
        const Passed one = pass(c, 1, DType::f32), ring = pass(c, 3, DType::f32, turned);
        EXPECT_GT(distance(ring.y, one.y), 1e-2) << c.name;
        EXPECT_GT(distance(ring.dqkv, one.dqkv), 1e-2) << c.name;
    }
}

}  // namespace
}  // namespace plinth::test
