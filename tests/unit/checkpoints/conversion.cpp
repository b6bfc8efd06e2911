// SPDX-License-Identifier: Apache-2.0
// Tensors that are wanted in the other one of fp32 and bf16 than they are kept in.
#include <gtest/gtest.h>

#include <cmath>

#include "checkpoints/restore.h"
#include "checkpoints/writer.h"
#include "tests/support/expect_error.h"
#include "tests/support/memory_files.h"
#include "tests/support/thread_ranks.h"
#include "tests/unit/checkpoints/state.h"

namespace plinth::checkpoints::test {
namespace {

using plinth::test::expect_error;
using plinth::test::MemoryFiles;
using plinth::test::ThreadRanks;

const Warn no_warning = [](const std::string& line) { ADD_FAILURE() << line; };
constexpr uint64_t seed = 6;

/// A cut as an optimizer shard makes it.
State flat_shards(int rank, int size) {
    State state;
    for (const Entry& entry : larger_table()) {
        core::Shard shard = core::Shard::whole(entry.shape);
        const int64_t n = shard.end;
        shard.begin = n * rank / size;
        shard.end = n * (rank + 1) / size;
        state.add(entry.name, entry.dtype, shard, seed);
    }
    return state;
}

/// Those of a state that are fp32 or bf16, wanted in the other dtype.
State in_the_other_dtype(const State& from) {
    State to;
    for (const core::StateTensor& tensor : from.tensors) {
        const bool is_wide = tensor.dtype == DType::f32, is_half = tensor.dtype == DType::bf16;
        const DType dtype = is_wide ? DType::bf16 : is_half ? DType::f32 : tensor.dtype;
        to.add(tensor.name, dtype, tensor.shard, 99);
    }
    return to;
}

/// Empty, or what is not the conversion of what was saved.
std::string conversion_problem(const State& saved, const State& loaded) {
    for (size_t t = 0; t < saved.tensors.size(); ++t) {
        const core::StateTensor &was = saved.tensors[t], &is = loaded.tensors[t];
        if (was.dtype == is.dtype) {
            if (std::memcmp(was.data, is.data, was.bytes()) != 0) return was.name;
            continue;
        }
        for (int64_t i = 0; i < was.shard.elements(); ++i) {
            const float value = was.value(i), found = is.value(i);
            if (std::isnan(value) ? std::isnan(found)
                                  : found == static_cast<float>(BFloat16(value)))
                continue;
            return fmt::format("{} {}: {} for {}", was.name, i, found, value);
        }
    }
    return "";
}

TEST(Conversion, TensorsOfTheOtherFloatAreConvertedWhereThatIsAllowed) {
    MemoryFiles files;
    ThreadRanks::run(3, [&](core::Ranks& ranks) {
        State mine = flat_shards(ranks.rank(), ranks.size());
        Writer writer(files, ranks, {});
        CHECK(writer.save(request(mine, 1)).committed, "not saved");
    });
    for (const int to : {1, 2, 3})
        for (const bool distribute : {false, true}) {
            ThreadRanks::run(to, [&](core::Ranks& ranks) {
                for (const bool is_cut : {false, true}) {
                    const State saved = is_cut ? flat_shards(ranks.rank(), ranks.size())
                                               : replicated(larger_table(), seed);
                    State mine = in_the_other_dtype(saved);
                    LoadOptions options{.distribute = distribute};
                    try {
                        restore_newest(files, ranks, "run", mine.tensors, no_warning, options);
                        CHECK(false, "converted unasked");
                    } catch (const Refused& error) {
                        CHECK(std::string(error.what()).find("model.") != std::string::npos, "{}",
                              error.what());
                    }
                    options.may_convert = [](const std::string& name) {
                        return name.starts_with("model.");
                    };
                    restore_newest(files, ranks, "run", mine.tensors, no_warning, options);
                    const std::string problem = conversion_problem(saved, mine);
                    CHECK(problem.empty(), "{}", problem);
                    auto* bytes = static_cast<uint8_t*>(mine.tensors[0].data);
                    if (mine.tensors[0].bytes() == 0) continue;
                    bytes[0] ^= 1;  // the mutant
                    CHECK(!conversion_problem(saved, mine).empty(), "the last bit is not seen");
                }
            });
        }
}

TEST(Conversion, NothingButFp32AndBf16IsConverted) {
    MemoryFiles files;
    core::SelfRanks ranks;
    Writer writer(files, ranks, {});
    EXPECT_TRUE(writer.save(request(replicated(tiny_table(), 1), 1)).committed);
    auto table = tiny_table();
    table[3].dtype = DType::f32;
    State state = replicated(table, 1);
    expect_error(
        ErrorKind::checkpoint,
        [&] {
            restore_newest(files, ranks, "run", state.tensors, no_warning,
                           {.may_convert = [](const auto&) { return true; }});
        },
        "optimizer.count", "holds it as i64");
}

}  // namespace
}  // namespace plinth::checkpoints::test
