// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention_part.h"

#include "kernels/attention_choice.h"
#include "tests/gpu/attention_operands.h"
#include "tests/gpu/device_test.h"
#include "tests/gpu/part_of.h"
#include "tests/support/attention_parts.h"
#include "tests/support/expect_error.h"

namespace plinth::test {
namespace {

using kernels::Attention;
using kernels::AttentionMask;
using kernels::AttentionPart;

enum Place {
    at_y,  ///< fp32, over all keys
    at_log_sum,
    at_rounded,  ///< y in the dtype of qkv
    at_sums,     ///< fp32 gradients of qkv beside what they held before
    at_dqkv,
    at_qkv,
    at_dy,
    at_others,
    at_slopes,
    at_documents,
    at_samples
};

/// Whether tensor cores serve the case: they round weights to bf16 before they meet the values.
bool takes_tensor_cores(const AttentionCase& c, DType dtype) {
    return dtype == DType::bf16 && c.width % 8 == 0 &&
           c.width <= kernels::largest_tensor_core_width;
}

/// Operands of the passes over all parts. What attention gives is fp32 for both dtypes; the
/// backward pass reads what was rounded to the dtype.
std::vector<Operand> operands_of(const AttentionCase& c, DType dtype) {
    const Shape packed{c.batch, c.tokens, c.columns()}, rows{c.batch, c.tokens, c.heads * c.width},
        keys{2, c.batch, c.tokens, c.kv_heads * c.width};
    const double exact = usual_tolerance(DType::f32), rounded = usual_tolerance(dtype);
    // Half a step of bf16 of each weight, times values below 2.5, and 1 / (1 - dropout).
    const double of_weights =
        takes_tensor_cores(c, dtype) ? 0x1p-9 * 2.5 / (1.0 - static_cast<double>(c.dropout)) : 0.0;
    return {output("y", rows, DType::f32, exact + of_weights),
            output("log_sum", {c.batch, c.heads, c.tokens}, DType::f32, exact),
            output("rounded", rows, dtype, rounded),
            in_out(input("sums", packed), rounded),
            output("dqkv", packed, dtype, rounded),
            spread("qkv", packed, dtype),
            input("dy", rows, dtype),
            input("others", keys),
            slopes_of(c),
            document_numbers(c),
            sample_numbers(c)};
}

AttentionMask mask_of(const std::vector<View>& views) {
    return {views[at_slopes], views[at_documents], views[at_samples]};
}

/// Queries, keys and values of packed qkv, or their gradients.
template <typename V>
struct Columns {
    V queries, keys, values;

    Columns(V packed, const AttentionCase& c) {
        const int64_t wide = c.heads * c.width, narrow = c.kv_heads * c.width;
        queries = packed.narrow(2, 0, wide);
        keys = packed.narrow(2, wide, narrow);
        values = packed.narrow(2, wide + narrow, narrow);
    }
};

class AttentionPartDeviceTest : public DeviceTest {
  protected:
    /// Both passes over a sequence in parts, as a ring of ranks takes them.
    static Call in_parts(const AttentionCase& c, int64_t parts, int64_t turn) {
        return [=](const std::vector<View>& views, Stream& stream) {
            const Attention options = attention_options(c);
            const AttentionMask mask = mask_of(views);
            const Columns of(views[at_qkv], c), sums(views[at_sums], c);
            for_attention_parts(c.tokens, parts, turn,
                                [&](TokenRun queries, TokenRun keys, AttentionPart part) {
                                    kernels::attention_part_forward(
                                        queries.of(views[at_y]), queries.of(views[at_log_sum], 2),
                                        queries.of(of.queries), keys.of(of.keys),
                                        keys.of(of.values), mask, part, options, stream);
                                });
            kernels::attention_part_join(views[at_rounded], views[at_y], {}, stream);
            for_attention_parts(
                c.tokens, parts, turn, [&](TokenRun queries, TokenRun keys, AttentionPart part) {
                    kernels::attention_part_backward(
                        queries.of(sums.queries), keys.of(sums.keys), keys.of(sums.values),
                        queries.of(views[at_dy]), queries.of(views[at_rounded]),
                        queries.of(views[at_log_sum], 2), queries.of(of.queries), keys.of(of.keys),
                        keys.of(of.values), mask, part, options, stream);
                });
            kernels::attention_part_join(views[at_dqkv], views[at_sums], views[at_others], stream);
        };
    }
    void expect_parts(const std::vector<AttentionCase>& cases, int64_t parts, int64_t turn) {
        for (const AttentionCase& c : cases)
            for (const DType dtype : {DType::f32, DType::bf16})
                expect_same(operands_of(c, dtype), in_parts(c, parts, turn),
                            fmt::format("{} {} in {} parts", c.name, name_of(dtype), parts));
    }
};

TEST_F(AttentionPartDeviceTest, EveryMaskAndOddSizesInOnePart) {
    expect_parts(attention_test_cases, 1, 0);
}

TEST_F(AttentionPartDeviceTest, EveryMaskAndOddSizesInTwoParts) {
    expect_parts(attention_test_cases, 2, 0);
}

/// Queries begin with keys that come later: some see none of the first ones.
TEST_F(AttentionPartDeviceTest, EveryMaskAndOddSizesInFiveTurnedParts) {
    expect_parts(attention_test_cases, 5, 3);
}

TEST_F(AttentionPartDeviceTest, HeadWidths) {
    expect_parts({{"width 16", 2, 70, 2, 2, 16},
                  {"width 64", 1, 130, 4, 2, 64},
                  {"width 64 bidirectional", 1, 130, 2, 1, 64, false},
                  {"width 96", 1, 70, 3, 3, 96, false},
                  {"width 100 everything", 1, 67, 2, 1, 100, true, true, true, 0.2f},
                  {"width 128", 1, 131, 4, 1, 128},
                  {"width 129", 1, 37, 1, 1, 129},
                  {"width 192 everything", 1, 67, 2, 1, 192, true, true, true, 0.2f},
                  {"width 256", 1, 70, 2, 1, 256}},
                 3, 1);
}

TEST_F(AttentionPartDeviceTest, LongSequences) {
    expect_parts({{"T=1024", 1, 1024, 2, 2, 64},
                  {"T=1021 grouped", 1, 1021, 2, 1, 128},
                  {"T=1000 dropout", 1, 1000, 1, 1, 64, true, false, false, 0.1f}},
                 4, 2);
}

/// Keys and values from another rank lie apart from the packed ones, and need not lie alike.
TEST_F(AttentionPartDeviceTest, TensorsThatLieInOtherWays) {
    for (const int64_t width : {8, 7})
        for (const DType dtype : {DType::f32, DType::bf16}) {
            const AttentionCase c{"others' keys", 2, 72, 4, 2, width};
            std::vector<Operand> operands = operands_of(c, dtype);
            const size_t at_keys = operands.size();
            operands.push_back(spread("keys", {c.batch, c.tokens, 2 * width}, dtype));
            operands.push_back(
                in_out(input("dkeys", {c.batch, c.tokens, 2 * width}), usual_tolerance(dtype)));
            for (const Place unused : {at_rounded, at_dqkv, at_others})
                operands[unused] = {};
            const Call call = [=](const std::vector<View>& views, Stream& stream) {
                const Columns of(views[at_qkv], c), sums(views[at_sums], c);
                const TokenRun queries{36, 36}, keys{0, 36};
                const AttentionPart part{36, 0, 72, true};
                kernels::attention_part_forward(
                    queries.of(views[at_y]), queries.of(views[at_log_sum], 2),
                    queries.of(of.queries), keys.of(views[at_keys]), keys.of(of.values), {}, part,
                    attention_options(c), stream);
                // Output and its gradient have one layout here, the rows of dy.
                kernels::attention_part_backward(
                    queries.of(sums.queries), keys.of(views[at_keys + 1]), keys.of(sums.values),
                    queries.of(views[at_dy]), keys.of(views[at_dy]),
                    queries.of(views[at_log_sum], 2), queries.of(of.queries),
                    keys.of(views[at_keys]), keys.of(of.values), {}, part, attention_options(c),
                    stream);
            };
            expect_same(operands, call, fmt::format("width {} {}", width, name_of(dtype)));
        }
}

TEST_F(AttentionPartDeviceTest, QueriesThatSeeNoKeyYet) {
    const AttentionCase c{"later keys", 2, 80, 2, 1, 16};
    std::vector<Operand> operands = operands_of(c, DType::f32);
    const auto run = [=](bool begins) -> Call {
        return [=](const std::vector<View>& views, Stream& stream) {
            const Columns of(views[at_qkv], c);
            const TokenRun first{0, 40}, second{40, 40};
            kernels::attention_part_forward(
                first.of(views[at_y]), first.of(views[at_log_sum], 2), first.of(of.queries),
                second.of(of.keys), second.of(of.values), {}, AttentionPart{0, 40, 80, begins},
                attention_options(c), stream);
        };
    };
    operands[at_y] = in_out(input("y", operands[at_y].shape), 0.0);
    operands[at_log_sum] = in_out(input("log_sum", operands[at_log_sum].shape), 0.0);
    expect_same(operands, run(true), "nothing is set to zero");
    expect_same(operands, run(false), "what was there stays");
    const auto begun = on_device(operands, run(true));
    EXPECT_EQ(begun[at_y].front(), 0.0);
    EXPECT_EQ(begun[at_log_sum].front(), -std::numeric_limits<double>::infinity());
}

TEST_F(AttentionPartDeviceTest, AHeadWiderThanTheKernelsIsRefused) {
    const AttentionCase c{"width 264", 1, 4, 1, 1, 264};
    expect_error(
        ErrorKind::internal, [&] { on_device(operands_of(c, DType::f32), in_parts(c, 1, 0)); },
        "a head width of 264 is more than the 256 of the CUDA kernels");
}

/// Rows of every alignment, with and without what other ranks gave.
TEST_F(AttentionPartDeviceTest, Join) {
    struct Sizes {
        int64_t batch, tokens, queries, keys;
    };
    const std::vector<Sizes> all = {{1, 1, 1, 1},       {2, 3, 5, 2},    {1, 7, 8, 4},
                                    {3, 65, 12, 4},     {2, 33, 13, 12}, {2, 500, 768, 768},
                                    {1, 129, 1024, 256}};
    for (const Sizes& s : all)
        for (const DType dtype : {DType::f32, DType::bf16})
            for (const bool has_others : {true, false})
                for (const int64_t first : {0, 1}) {
                    const Shape rows{s.batch, s.tokens, s.queries + 2 * s.keys};
                    const std::vector<Operand> operands = {
                        output("dqkv", {rows.elements() + first}, dtype, 0.0),
                        input("own", {rows.elements() + first}),
                        has_others ? input("others", {2, s.batch, s.tokens, s.keys}) : Operand{}};
                    const auto shaped = [=](const View& view) {
                        View part = part_of(view, first);
                        return View(part.data, part.dtype, rows, part.device);
                    };
                    expect_same(
                        operands,
                        [=](const std::vector<View>& views, Stream& stream) {
                            kernels::attention_part_join(shaped(views[0]), shaped(views[1]),
                                                         views[2], stream);
                        },
                        fmt::format("{} {} {} {}", rows.text(), name_of(dtype), has_others, first));
                }
}

}  // namespace
}  // namespace plinth::test
