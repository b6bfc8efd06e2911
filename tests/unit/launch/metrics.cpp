// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <bit>
#include <cmath>
#include <csignal>
#include <limits>

#include "core/io/crc32c.h"
#include "launch/metrics/best_effort.h"
#include "launch/metrics/jsonl_log.h"
#include "launch/metrics/model_flops.h"
#include "launch/metrics/progress_line.h"
#include "launch/metrics/tensorboard.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace plinth::launch {
namespace {

using core::io::Json;
using core::io::posix;
using core::io::read_all;

StepRecord sample_step(int64_t step) {
    return {.step = step,
            .total_steps = 2000,
            .samples = step * 16,
            .tokens = step * 16 * 64,
            .global_batch = 16,
            .ranks = 2,
            .wall_time = 1700000000.5,
            .loss = 3.2145671,
            .learning_rate = 6e-4,
            .grad_norm = 1.25,
            .step_seconds = 0.6637,
            .tokens_per_second = 12345.4,
            .flops_per_second = 5.2e10,
            .mfu = 0.412,
            .memory_bytes = 1300000000,
            .skipped_steps = 1,
            .eta_seconds = 1243.6};
}

std::string hex(const std::string& text) {
    std::string digits;
    for (const unsigned char c : text)
        digits += fmt::format("{:02x}", c);
    return digits;
}

std::string slurp(std::FILE* file) {
    std::rewind(file);
    std::string text;
    for (int c; (c = std::fgetc(file)) != EOF;)
        text += static_cast<char>(c);
    return text;
}

TEST(ProgressLine, StablePairs) {
    EXPECT_EQ(
        progress_line(sample_step(120)),
        "step 120/2000  loss 3.214567  lr 6.000e-04  grad-norm 1.2500  tokens/s 12345  "
        "ms/step 663.7  tflop/s/rank 0.052  mfu 41.2%  memory 1.21GiB  skipped 1  eta 20m44s");
    StepRecord unknown = sample_step(1);
    unknown.mfu = {};
    unknown.loss = std::numeric_limits<double>::quiet_NaN();
    unknown.memory_bytes = 5 << 20;
    EXPECT_NE(progress_line(unknown).find("  loss nan  "), std::string::npos);
    EXPECT_NE(progress_line(unknown).find("  mfu -  memory 5.0MiB  "), std::string::npos);
    EvaluationRecord held_out{
        .step = 5, .loss = 2, .held_out_samples = 80, .held_out_total = 1234, .seconds = 1.5};
    EXPECT_EQ(evaluation_line(held_out),
              "step 5  held-out loss 2.000000 over 80 of 1234 samples  perplexity 7.389  "
              "bits/byte -  seconds 1.5");
    held_out.accuracy = 0.5;
    held_out.macro_f1 = 0.25;
    EXPECT_EQ(evaluation_line(held_out),
              "step 5  held-out loss 2.000000 over 80 of 1234 samples  accuracy 0.5000  "
              "macro F1 0.2500  seconds 1.5");
}

TEST(ProgressSink, PlainFilesGetEveryNthLineTerminalsTheRestInPlace) {
    std::FILE* plain = std::tmpfile();
    std::FILE* terminal = std::tmpfile();
    ProgressSink to_file(plain, 10, false);
    ProgressSink to_terminal(terminal, 10, true);
    for (int64_t step = 1; step <= 20; ++step) {
        to_file.step(sample_step(step));
        to_terminal.step(sample_step(step));
    }
    const std::string lines = slurp(plain);
    EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 3);  // steps 1, 10 and 20
    EXPECT_EQ(lines.find('\r'), std::string::npos);
    EXPECT_EQ(lines.find('\x1b'), std::string::npos);
    const std::string live = slurp(terminal);
    EXPECT_EQ(std::count(live.begin(), live.end(), '\n'), 3);
    EXPECT_EQ(std::count(live.begin(), live.end(), '\r'), 20);
    std::fclose(plain);
    std::fclose(terminal);
}

void no_warning(const std::string& line) {
    ADD_FAILURE() << line;
}

TEST(JsonlLog, WritesNumbersAndTheirBits) {
    const test::TemporaryFolder folder;
    const std::string path = folder / "metrics.jsonl";
    JsonlLog log(posix(), path);
    StepRecord record = sample_step(7);
    record.loss = 0.1 + 0.2;
    record.save_wait_seconds = 0.125;
    log.step(record);
    record.loss = std::numeric_limits<double>::quiet_NaN();
    record.z_loss = 0.25;
    record.step = 8;
    log.step(record);
    log.evaluation({.step = 8, .loss = 2.5, .held_out_samples = 6, .held_out_total = 30});
    std::vector<Json> lines;
    read_metrics(posix(), path, [&](const Json& line) { lines.push_back(line); });
    ASSERT_EQ(lines.size(), 3u);
    EXPECT_EQ(lines[0].get_string("kind"), "step");
    EXPECT_EQ(lines[0].get_double("loss"), 0.1 + 0.2);
    EXPECT_EQ(std::strtod(lines[0].get_string("loss_hex").c_str(), nullptr), 0.1 + 0.2);
    EXPECT_EQ(lines[0].get_int("tokens"), 7 * 16 * 64);
    EXPECT_EQ(lines[0].get_double("save_wait_seconds"), 0.125);
    EXPECT_EQ(lines[0].find("z_loss"), nullptr);
    EXPECT_EQ(lines[1].get_double("z_loss"), 0.25);
    EXPECT_TRUE(lines[1].at("loss").is_null());
    EXPECT_EQ(lines[1].get_string("loss_hex"), "nan");
    EXPECT_EQ(lines[2].get_string("kind"), "evaluation");
    EXPECT_EQ(lines[2].get_double("held_out_loss"), 2.5);
    EXPECT_EQ(lines[2].get_int("held_out_samples"), 6);
    EXPECT_EQ(lines[2].get_int("held_out_total"), 30);
}

TEST(JsonlLog, EveryTruncationReadsTheWholeLinesAndResumes) {
    const test::TemporaryFolder folder;
    const std::string path = folder / "metrics.jsonl";
    {
        JsonlLog log(posix(), path);
        for (int64_t step = 1; step <= 4; ++step)
            log.step(sample_step(step));
    }
    const std::string whole = read_all(posix(), path);
    for (size_t length = 0; length <= whole.size(); length += 13) {
        core::io::write_atomically(posix(), path, whole.substr(0, length));
        const int64_t complete =
            std::count(whole.begin(), whole.begin() + static_cast<long>(length), '\n');
        int64_t read = 0;
        read_metrics(posix(), path,
                     [&](const Json& line) { EXPECT_EQ(line.get_int("step"), ++read); });
        EXPECT_EQ(read, complete);
        cut_metrics(posix(), path, 2, no_warning);
        JsonlLog log(posix(), path);
        log.step(sample_step(3));
        int64_t expected = 0;
        read_metrics(posix(), path, [&](const Json& line) {
            ++expected;
            EXPECT_EQ(line.get_int("step"),
                      expected <= std::min<int64_t>(complete, 2) ? expected : 3);
        });
        EXPECT_EQ(expected, std::min<int64_t>(complete, 2) + 1);
    }
}

TEST(JsonlLog, CutKeepsTheResumedStepWithoutItsEvaluation) {
    const test::TemporaryFolder folder;
    const std::string path = folder / "metrics.jsonl";
    EXPECT_EQ(cut_metrics(posix(), path, 3, no_warning), 0u);
    {
        JsonlLog log(posix(), path);
        for (int64_t step = 1; step <= 5000; ++step) {
            log.step(sample_step(step));
            log.evaluation({.step = step, .loss = 1});
        }
    }
    const std::string whole = read_all(posix(), path);
    ASSERT_GT(whole.size(), size_t{2} << 20);  // several pieces
    EXPECT_EQ(cut_metrics(posix(), path, 5001, no_warning), 0u);
    EXPECT_EQ(read_all(posix(), path), whole);
    EXPECT_GT(cut_metrics(posix(), path, 5000, no_warning), 0u);  // the last evaluation
    EXPECT_GT(cut_metrics(posix(), path, 4000, no_warning), 0u);
    int64_t lines = 0;
    std::string last;
    read_metrics(posix(), path, [&](const Json& line) {
        ++lines;
        last = line.dump();
    });
    EXPECT_EQ(lines, 7999);
    EXPECT_NE(last.find("\"step\":4000"), std::string::npos) << last;
    EXPECT_NE(last.find("\"kind\":\"step\""), std::string::npos) << last;
    EXPECT_EQ(read_all(posix(), path), whole.substr(0, read_all(posix(), path).size()));
}

/// No file may grow beyond a size: a full disk.
class DiskLimit {
  public:
    explicit DiskLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
        CHECK(getrlimit(RLIMIT_FSIZE, &before_) == 0, "getrlimit");
        const rlimit limited{bytes, before_.rlim_max};
        CHECK(setrlimit(RLIMIT_FSIZE, &limited) == 0, "setrlimit");
    }
    ~DiskLimit() {
        setrlimit(RLIMIT_FSIZE, &before_);
        std::signal(SIGXFSZ, handler_);
    }

  private:
    rlimit before_{};
    void (*handler_)(int);
};

TEST(BestEffortSink, AFullDiskDropsLinesAndTearsNone) {
    const test::TemporaryFolder folder;
    const std::string path = folder / "metrics.jsonl";
    std::vector<std::string> warnings;
    BestEffortSink log(std::make_unique<JsonlLog>(posix(), path), path,
                       [&](const std::string& line) { warnings.push_back(line); });
    log.step(sample_step(1));
    const uint64_t line = posix().open_read(path)->size();
    {
        const DiskLimit full(line + line / 2);
        for (int64_t step = 2; step <= 4; ++step)
            log.step(sample_step(step));
        EXPECT_EQ(posix().open_read(path)->size(), line + line / 2);  // half a line
        ASSERT_EQ(warnings.size(), 1u);
        EXPECT_NE(warnings[0].find("run goes on"), std::string::npos) << warnings[0];
    }
    log.evaluation({.step = 4, .loss = 1});  // shorter than what the torn line left
    log.step(sample_step(5));
    ASSERT_EQ(warnings.size(), 2u);
    EXPECT_NE(warnings[1].find("3 records are missing"), std::string::npos) << warnings[1];
    const auto steps = [&] {
        std::vector<int64_t> found;
        read_metrics(posix(), path,
                     [&](const Json& record) { found.push_back(record.get_int("step")); });
        return found;
    };
    EXPECT_EQ(steps(), (std::vector<int64_t>{1, 4, 5}));
    // Resuming at a step whose line was dropped.
    cut_metrics(posix(), path, 3, no_warning);
    JsonlLog(posix(), path).step(sample_step(4));
    EXPECT_EQ(steps(), (std::vector<int64_t>{1, 4}));
}

TEST(ProgressSink, AFullDiskEndsNothing) {
    std::FILE* full = std::fopen("/dev/full", "w");
    ASSERT_NE(full, nullptr);
    ProgressSink sink(full, 1, false);
    EXPECT_NO_THROW(sink.step(sample_step(1)));
    std::fclose(full);
}

TEST(JsonlLog, ALineThatCannotBeReadEndsWhatIsKept) {
    const test::TemporaryFolder folder;
    const std::string path = folder / "metrics.jsonl";
    {
        JsonlLog log(posix(), path);
        for (int64_t step = 1; step <= 4; ++step)
            log.step(sample_step(step));
    }
    const std::string whole = read_all(posix(), path);
    const size_t second = whole.find('\n') + 1, third = whole.find('\n', second) + 1;
    const std::string head = whole.substr(0, third);
    for (const std::string& damage : {std::string(40, '\0'), std::string("[1]"), std::string("{"),
                                      std::string("{\"step\": 3}")}) {
        const std::string damaged = head + damage + "\n" + whole.substr(third);
        core::io::write_atomically(posix(), path, damaged);
        std::vector<std::string> warnings;
        const auto warn = [&](const std::string& line) { warnings.push_back(line); };
        EXPECT_EQ(cut_metrics(posix(), path, 4, warn), damaged.size() - head.size());
        EXPECT_EQ(read_all(posix(), path), head);
        EXPECT_EQ(read_all(posix(), path + ".damaged"), damaged);
        ASSERT_EQ(warnings.size(), 1u);
        EXPECT_NE(warnings[0].find("metrics.jsonl: line 3"), std::string::npos) << warnings[0];
    }
    core::io::write_atomically(posix(), path, whole);
    EXPECT_EQ(cut_metrics(posix(), path, 4, no_warning), 0u);
    EXPECT_EQ(read_all(posix(), path), whole);
}

TEST(JsonlLog, ForeignLinesAreNamed) {
    const test::TemporaryFolder folder;
    const std::string path = folder / "m.jsonl";
    const auto refuse = [&](const std::string& text, const std::string& message) {
        core::io::write_atomically(posix(), path, text);
        test::expect_error(
            ErrorKind::data, [&] { read_metrics(posix(), path, [](const Json&) {}); }, message);
    };
    refuse("{\"step\": 1}\n{\"stp\": 2}\n", "m.jsonl: line 2: not an object with a \"step\"");
    refuse("{\"step\": 1}\nnot json\n{\"step\": 3}\n", "m.jsonl: line 2");
    refuse("[1]\n", "m.jsonl: line 1");
}

TEST(Tensorboard, GoldenBytes) {
    EXPECT_EQ(hex(tensorboard_record(version_event(1.0))),
              "1800000000000000a37f4b2209000000000000f03f1a0d627261696e2e4576656e743a3286bf577a");
    EXPECT_EQ(
        hex(tensorboard_record(scalar_event(2.0, 7, {{"loss", 2.5f}}))),
        "1a00000000000000129bd82d09000000000000004010072a0d0a0b0a046c6f73731500002040c2dfec60");
    // SessionLog{status: START} at step 300: 09 <double> 10 ac02 3a 02 08 01.
    EXPECT_EQ(hex(restart_event(1.0, 300)), "09000000000000f03f10ac023a020801");
}

// An independent reader of the framing: every record's length and payload checksums hold.
std::vector<std::string> read_records(const std::string& file) {
    std::vector<std::string> payloads;
    const auto crc_at = [&](size_t offset) {
        uint32_t masked = 0;
        std::memcpy(&masked, file.data() + offset, 4);
        return std::rotl(masked - 0xA282EAD8u, 15);
    };
    const auto crc_of = [&](size_t offset, size_t length) {
        return core::io::crc32c(0, std::as_bytes(std::span(file.data() + offset, length)));
    };
    for (size_t offset = 0; offset < file.size();) {
        uint64_t length = 0;
        std::memcpy(&length, file.data() + offset, 8);
        EXPECT_EQ(crc_at(offset + 8), crc_of(offset, 8));
        EXPECT_EQ(crc_at(offset + 12 + length), crc_of(offset + 12, length));
        payloads.push_back(file.substr(offset + 12, length));
        offset += 16 + length;
    }
    return payloads;
}

TEST(Tensorboard, FilesHoldTheFieldsTags) {
    const test::TemporaryFolder folder;
    {
        TensorboardLog log(posix(), {.folder = folder.path(),
                                     .wall_time = 1700000000,
                                     .host = "node1",
                                     .process = 42,
                                     .resumed_step = 6,
                                     .resumed_samples = 96});
        StepRecord record = sample_step(7);
        log.step(record);
        log.evaluation({.step = 7, .loss = 1, .bits_per_byte = 2});
        record.z_loss = 0.25;
        log.step(record);
    }
    const std::string name = "events.out.tfevents.1700000000.node1.42.0";
    const auto steps = read_records(read_all(posix(), folder / name));
    ASSERT_EQ(steps.size(), 5u);
    EXPECT_EQ(steps[0], version_event(1700000000));
    EXPECT_EQ(steps[1], restart_event(1700000000, 7));
    for (const char* tag : {"lm loss", "learning-rate", "grad-norm", "batch-size", "iteration-time",
                            "throughput", "mfu"})
        EXPECT_NE(steps[2].find(tag), std::string::npos) << tag;
    EXPECT_NE(steps[3].find("lm loss validation ppl"), std::string::npos);
    EXPECT_EQ(steps[2].find("z_loss"), std::string::npos);
    EXPECT_NE(steps[4].find("z_loss"), std::string::npos);
    const auto samples = read_records(read_all(posix(), folder / ("samples/" + name)));
    ASSERT_EQ(samples.size(), 4u);
    EXPECT_EQ(samples[1], restart_event(1700000000, 97));
    EXPECT_EQ(samples[2], scalar_event(1700000000.5, 112, {{"lm loss vs samples", 3.2145671f}}));
}

TEST(ModelFlops, FollowTheStatedFormula) {
    ModelSection model;  // GPT-2 124M
    resolve(model);
    const double matmul = 12.0 * 12 * 768 * 768 + 50257.0 * 768;
    EXPECT_EQ(training_flops_per_token(model, 1024), 6 * matmul + 6.0 * 12 * 768 * 1024);
    EXPECT_EQ(forward_flops_per_token(model, 1024), 2 * matmul + 2.0 * 12 * 768 * 1024);
    model.causal = false;
    EXPECT_EQ(training_flops_per_token(model, 1024), 6 * matmul + 12.0 * 12 * 768 * 1024);
    model.causal = true;
    // Of the 1024 rows of scores below the diagonal a band of 256.
    model.sliding_window = 256;
    EXPECT_EQ(forward_flops_per_token(model, 1024),
              2 * matmul + 4.0 * 12 * 768 * (256 - 256.0 * 256 / 2048));
    EXPECT_EQ(forward_flops_per_token(model, 128), 2 * matmul + 2.0 * 12 * 768 * 128);
    model.sliding_window = 0;
    model.kv_heads = 3;  // attention's products stay, the projections shrink
    EXPECT_EQ(training_flops_per_token(model, 1024),
              6 * (matmul - 12.0 * 2 * 768 * 576) + 6.0 * 12 * 768 * 1024);
    EXPECT_EQ(model_flops_utilisation(1000, 2e9, 4, 1e12), 0.5);
    EXPECT_FALSE(model_flops_utilisation(1000, 2e9, 4, 0));
}

}  // namespace
}  // namespace plinth::launch
