// SPDX-License-Identifier: Apache-2.0
// A ring of ranks that share a device, their keys and values staged through the host.
#include "tests/gpu_parallel/device_buffers.h"
#include "tests/support/ring_pass.h"

namespace plinth::test {
namespace {

class RingDeviceTest : public ParallelDeviceTest {
  protected:
    static Passed on_device(const RingCase& c, int ranks, DType dtype) {
        return pass(c, ranks, dtype, {.device = {DeviceType::cuda, 0}});
    }
    static void expect_as_on_host(const RingCase& c, int ranks, DType dtype, double tolerance) {
        const Passed host = pass(c, ranks, dtype), device = on_device(c, ranks, dtype);
        EXPECT_LT(distance(device.y, host.y), tolerance) << c.name << " " << ranks;
        EXPECT_LT(distance(device.dqkv, host.dqkv), tolerance) << c.name << " " << ranks;
        const Passed again = on_device(c, ranks, dtype);
        EXPECT_EQ(again.y, device.y) << c.name << ": other bits the second time";
        EXPECT_EQ(again.dqkv, device.dqkv) << c.name << ": other bits the second time";
    }
};

TEST_F(RingDeviceTest, GivesWhatTheHostGives) {
    for (const RingCase& c : ring_cases)
        for (const int ranks : {2, 3}) {
            expect_as_on_host(c, ranks, DType::f32, 4e-6);
            expect_as_on_host(c, ranks, DType::bf16, 1e-2);
        }
}

TEST_F(RingDeviceTest, LongSequences) {
    for (const RingCase& c : std::vector<RingCase>{{"T=1536", 1, 1536, 2, 1, 64},
                                                   {"T=768 width 128", 2, 768, 2, 2, 128}})
        for (const int ranks : {2, 4}) {
            expect_as_on_host(c, ranks, DType::f32, 1e-5);
            expect_as_on_host(c, ranks, DType::bf16, 1e-2);
        }
}

/// The mutant: a ring of ranks that have other tokens.
TEST_F(RingDeviceTest, OtherSequencesShow) {
    RingCase c = ring_cases[0];
    const Passed host = pass(c, 2, DType::f32);
    c.causal = false;
    EXPECT_GT(distance(on_device(c, 2, DType::f32).y, host.y), 1e-2);
}

}  // namespace
}  // namespace plinth::test
