// SPDX-License-Identifier: Apache-2.0
// The few fields of tensorflow/core/util/event.proto that scalars need, encoded by hand:
// Event {wall_time = 1 double, step = 2 int64, file_version = 3 string, summary = 5,
// session_log = 7}, Summary {value = 1}, Value {tag = 1 string, simple_value = 2 float},
// SessionLog {status = 1, START = 1}.
#include "launch/metrics/tensorboard.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <span>

#include "core/io/crc32c.h"

namespace plinth::launch {
namespace {

using core::io::OpenMode;

enum WireType { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

template <class T>
void put_little_endian(std::string& out, T value) {
    for (size_t i = 0; i < sizeof(T); ++i)
        out += static_cast<char>(static_cast<unsigned char>(value >> (8 * i)));
}

void put_varint(std::string& out, uint64_t value) {
    for (; value >= 0x80; value >>= 7)
        out += static_cast<char>(0x80 | (value & 0x7F));
    out += static_cast<char>(value);
}

void put_tag(std::string& out, uint64_t field, WireType type) {
    put_varint(out, field << 3 | type);
}

void put_bytes(std::string& out, uint64_t field, const std::string& content) {
    put_tag(out, field, bytes);
    put_varint(out, content.size());
    out += content;
}

std::string event_head(double wall_time, int64_t step) {
    std::string event;
    put_tag(event, 1, fixed64);
    put_little_endian(event, std::bit_cast<uint64_t>(wall_time));
    if (step != 0) {
        put_tag(event, 2, varint);
        put_varint(event, static_cast<uint64_t>(step));
    }
    return event;
}

// TFRecord masks checksums so that a checksum of data that holds checksums stays good.
uint32_t masked_crc(const std::string& text) {
    const uint32_t crc = core::io::crc32c(0, std::as_bytes(std::span(text.data(), text.size())));
    return std::rotr(crc, 15) + 0xA282EAD8u;
}

void append(core::io::WritableFile& file, const std::string& payload) {
    const std::string record = tensorboard_record(payload);
    file.append(std::as_bytes(std::span(record.data(), record.size())));
}

// A new file, as TensorBoard wants for each process, that drops what lies behind `resumed`.
std::unique_ptr<core::io::WritableFile> open_events(core::io::FileSystem& files,
                                                    const TensorboardLog::Options& options,
                                                    const std::string& folder, int64_t resumed) {
    files.make_directories(folder);
    const std::string name =
        fmt::format("events.out.tfevents.{}.{}.{}.0", static_cast<int64_t>(options.wall_time),
                    options.host, options.process);
    auto file = files.open_write(core::io::join(folder, name), OpenMode::append);
    append(*file, version_event(options.wall_time));
    if (resumed > 0) append(*file, restart_event(options.wall_time, resumed + 1));
    return file;
}

}  // namespace

std::string tensorboard_record(const std::string& payload) {
    std::string record;
    put_little_endian(record, static_cast<uint64_t>(payload.size()));
    put_little_endian(record, masked_crc(record));
    record += payload;
    put_little_endian(record, masked_crc(payload));
    return record;
}

std::string version_event(double wall_time) {
    std::string event = event_head(wall_time, 0);
    put_bytes(event, 3, "brain.Event:2");
    return event;
}

std::string scalar_event(double wall_time, int64_t step, const std::vector<Scalar>& scalars) {
    std::string summary;
    for (const auto& [tag, number] : scalars) {
        std::string value;
        put_bytes(value, 1, tag);
        put_tag(value, 2, fixed32);
        put_little_endian(value, std::bit_cast<uint32_t>(number));
        put_bytes(summary, 1, value);
    }
    std::string event = event_head(wall_time, step);
    put_bytes(event, 5, summary);
    return event;
}

std::string restart_event(double wall_time, int64_t step) {
    std::string session;
    put_tag(session, 1, varint);
    put_varint(session, 1);
    std::string event = event_head(wall_time, step);
    put_bytes(event, 7, session);
    return event;
}

TensorboardLog::TensorboardLog(core::io::FileSystem& files, const Options& options)
    : by_step_(open_events(files, options, options.folder, options.resumed_step)),
      by_samples_(open_events(files, options, core::io::join(options.folder, "samples"),
                              options.resumed_samples)) {}

void TensorboardLog::step(const StepRecord& record) {
    const auto number = [](double value) { return static_cast<float>(value); };
    std::vector<Scalar> scalars{
        {"lm loss", number(record.loss)},
        {"learning-rate", number(record.learning_rate)},
        {"grad-norm", number(record.grad_norm)},
        {"batch-size", number(static_cast<double>(record.global_batch))},
        {"iteration-time", number(record.step_seconds)},
        {"throughput", number(1e-12 * record.flops_per_second)},
        {"tokens-per-second", number(record.tokens_per_second)},
        {"memory-gib", number(static_cast<double>(record.memory_bytes) / (1 << 30))},
        {"skipped-steps", number(static_cast<double>(record.skipped_steps))}};
    if (record.z_loss) scalars.emplace_back("z_loss", number(*record.z_loss));
    if (record.mfu) scalars.emplace_back("mfu", number(*record.mfu));
    append(*by_step_, scalar_event(record.wall_time, record.step, scalars));
    append(*by_samples_, scalar_event(record.wall_time, record.samples,
                                      {{"lm loss vs samples", number(record.loss)}}));
}

void TensorboardLog::evaluation(const EvaluationRecord& record) {
    std::vector<Scalar> scalars{
        {"lm loss validation", static_cast<float>(record.loss)},
        {"lm loss validation ppl", static_cast<float>(std::exp(record.loss))}};
    if (record.bits_per_byte)
        scalars.emplace_back("bits-per-byte validation", static_cast<float>(*record.bits_per_byte));
    if (record.accuracy)
        scalars.emplace_back("accuracy validation", static_cast<float>(*record.accuracy));
    if (record.macro_f1)
        scalars.emplace_back("macro-f1 validation", static_cast<float>(*record.macro_f1));
    append(*by_step_, scalar_event(record.wall_time, record.step, scalars));
}

}  // namespace plinth::launch
