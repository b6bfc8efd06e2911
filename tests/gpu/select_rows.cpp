// SPDX-License-Identifier: Apache-2.0
#include "kernels/select_rows.h"

#include "tests/gpu/device_test.h"
#include "tests/support/expect_error.h"

namespace plinth::test {
namespace {

constexpr int32_t none = -100;

class SelectRowsDeviceTest : public DeviceTest {
  protected:
    void expect_refusal(const std::vector<int32_t>& rows, const std::string& text) {
        const auto count = static_cast<int64_t>(rows.size());
        const std::vector<Operand> operands{output("y", {count, 8}, DType::f32, 0.0),
                                            input("x", {10, 8}), input_of("rows", {count}, rows)};
        const Call forward = [](const auto& v, Stream& s) {
            kernels::select_rows_forward(v[0], v[1], v[2], s);
        };
        const Call backward = [](const auto& v, Stream& s) {
            kernels::select_rows_backward(v[1], v[0], v[2], s);
        };
        for (const Call& call : {forward, backward})
            expect_error(
                ErrorKind::internal, [&] { on_device(operands, call); }, text);
    }
};

TEST_F(SelectRowsDeviceTest, RowsGoThereAndBack) {
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const auto& [rows, width] : std::initializer_list<std::pair<int64_t, int64_t>>{
                 {1, 1}, {5, 3}, {7, 8}, {33, 257}, {100, 768}, {300, 4096}})
            for (const int64_t step : {1, 3, 1000}) {
                std::vector<int32_t> numbers;
                for (int64_t r = rows > 1 ? 1 : 0; r < rows; r += step)
                    numbers.push_back(static_cast<int32_t>(r));
                const auto count = static_cast<int64_t>(numbers.size());
                expect_same(
                    {output("y", {count, width}, dtype, 0.0),
                     output("dx", {rows, width}, dtype, 0.0), input("x", {rows, width}, dtype),
                     input("dy", {count, width}, dtype), input_of("rows", {count}, numbers)},
                    [](const auto& v, Stream& s) {
                        kernels::select_rows_forward(v[0], v[2], v[4], s);
                        kernels::select_rows_backward(v[1], v[3], v[4], s);
                    },
                    fmt::format("{} of {} rows of {} {}", count, rows, width, name_of(dtype)));
            }
}

TEST_F(SelectRowsDeviceTest, FindsTheFirstLabelOfEachSample) {
    for (const int64_t length : {1, 31, 32, 33, 1025}) {
        const int64_t samples = 70;
        std::vector<int32_t> targets(static_cast<size_t>(samples * length), none);
        for (int64_t b = 0; b < samples; ++b) {
            const int64_t at = b * 97 % length;
            targets[static_cast<size_t>(b * length + at)] = static_cast<int32_t>(b);
            targets[static_cast<size_t>((b + 1) * length - 1)] = 5;  // a later one, or the same
        }
        expect_same(
            {output("rows", {samples}, DType::i32, 0.0),
             output("labels", {samples}, DType::i32, 0.0),
             input_of("targets", {samples, length}, targets)},
            [](const auto& v, Stream& s) {
                kernels::find_labelled_rows(v[0], v[1], v[2], none, s);
            },
            fmt::format("samples of {}", length));
    }
}

TEST_F(SelectRowsDeviceTest, RowsThatDoNotAscendAndMissingLabelsAreRefused) {
    expect_refusal({2, 2}, "row 2 (number 1) does not ascend within 10 rows");
    expect_refusal({10}, "row 10 (number 0) does not ascend within 10 rows");
    expect_refusal({-1, 4}, "row -1 (number 0) does not ascend within 10 rows");
    const Operand targets = input_of("targets", {2, 2}, std::vector<int32_t>{1, none, none, none});
    expect_error(
        ErrorKind::data,
        [&] {
            on_device({output("rows", {2}, DType::i32, 0.0), output("labels", {2}, DType::i32, 0.0),
                       targets},
                      [](const auto& v, Stream& s) {
                          kernels::find_labelled_rows(v[0], v[1], v[2], none, s);
                      });
        },
        "sample 1 of the micro-batch has no label");
}

}  // namespace
}  // namespace plinth::test
