// SPDX-License-Identifier: Apache-2.0
#include "tests/gpu/device_test.h"

#include <cmath>
#include <cstring>

#include "kernels/runtime/device_module.h"
#include "kernels/runtime/philox.h"
#include "tests/support/emulated_device.h"

namespace plinth::test {

namespace {

constexpr size_t guard_bytes = 256;
constexpr std::byte guard{0xA5};

std::vector<std::byte> converted(const std::vector<float>& values, DType dtype) {
    std::vector<std::byte> bytes(values.size() * size_of(dtype));
    for (size_t i = 0; i < values.size(); ++i) {
        if (dtype == DType::bf16) {
            const BFloat16 value(values[i]);
            std::memcpy(bytes.data() + i * sizeof(value), &value, sizeof(value));
        } else if (dtype == DType::f64) {
            const auto value = static_cast<double>(values[i]);
            std::memcpy(bytes.data() + i * sizeof(value), &value, sizeof(value));
        } else {
            CHECK(dtype == DType::f32, "random values of {}", name_of(dtype));
            std::memcpy(bytes.data() + i * sizeof(float), &values[i], sizeof(float));
        }
    }
    return bytes;
}

template <typename T>
double element(const std::vector<std::byte>& bytes, size_t i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    if constexpr (std::is_same_v<T, BFloat16>)
        return static_cast<double>(static_cast<float>(value));
    else
        return static_cast<double>(value);
}

std::vector<double> doubles(const std::vector<std::byte>& bytes, DType dtype) {
    std::vector<double> values(bytes.size() / size_of(dtype));
    for (size_t i = 0; i < values.size(); ++i)
        switch (dtype) {
            case DType::f32:
                values[i] = element<float>(bytes, i);
                break;
            case DType::bf16:
                values[i] = element<BFloat16>(bytes, i);
                break;
            case DType::f64:
                values[i] = element<double>(bytes, i);
                break;
            case DType::i32:
                values[i] = element<int32_t>(bytes, i);
                break;
            case DType::i64:
                values[i] = element<int64_t>(bytes, i);
                break;
            default:
                FAIL(internal, "operands of {}", name_of(dtype));
        }
    return values;
}

template <typename T>
Operand copied(const std::string& name, const Shape& shape, const std::vector<T>& values) {
    CHECK(static_cast<int64_t>(values.size()) == shape.elements(), "{}: {} values for {}", name,
          values.size(), shape.text());
    Operand operand{.name = name, .dtype = DTypeOf<T>::value, .shape = shape};
    operand.bytes.resize(values.size() * sizeof(T));
    std::memcpy(operand.bytes.data(), values.data(), operand.bytes.size());
    return operand;
}

std::vector<std::vector<double>> as_doubles(const std::vector<Operand>& operands,
                                            const std::vector<std::vector<std::byte>>& bytes) {
    std::vector<std::vector<double>> values;
    for (size_t i = 0; i < operands.size(); ++i)
        values.push_back(doubles(bytes[i], operands[i].dtype));
    return values;
}

void expect_near(const Operand& operand, const std::vector<double>& device,
                 const std::vector<double>& host, const std::string& what) {
    double worst = 0.0;
    size_t at = 0;
    for (size_t i = 0; i < host.size(); ++i) {
        if (device[i] == host[i] || (std::isnan(device[i]) && std::isnan(host[i]))) continue;
        const double error = std::abs(device[i] - host[i]) / (std::abs(host[i]) + 1.0);
        if (!(error <= worst)) {
            worst = error;
            at = i;
        }
    }
    EXPECT_LE(worst, operand.tolerance)
        << what << ": " << operand.name << "[" << at << "] of " << operand.shape.text() << " is "
        << device[at] << " on the device and " << host[at] << " on the host";
}

}  // namespace

Operand input(const std::string& name, const Shape& shape, DType dtype) {
    std::vector<float> values(static_cast<size_t>(shape.elements()));
    const RandomKey key(7, name);
    for (size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<float>(key.words(i)[0]) * 0x1p-31f - 1.0f;
    return input_of(name, shape, values, dtype);
}

Operand input_of(const std::string& name, const Shape& shape, const std::vector<float>& values,
                 DType dtype) {
    CHECK(static_cast<int64_t>(values.size()) == shape.elements(), "{}: {} values for {}", name,
          values.size(), shape.text());
    return {.name = name, .dtype = dtype, .shape = shape, .bytes = converted(values, dtype)};
}

Operand input_of(const std::string& name, const Shape& shape, const std::vector<int32_t>& values) {
    return copied(name, shape, values);
}

Operand input_of(const std::string& name, const Shape& shape, const std::vector<int64_t>& values) {
    return copied(name, shape, values);
}

Operand input_of(const std::string& name, const Shape& shape, const std::vector<double>& values) {
    return copied(name, shape, values);
}

Operand output(const std::string& name, const Shape& shape, DType dtype, double tolerance) {
    Operand operand{.name = name, .dtype = dtype, .shape = shape, .tolerance = tolerance};
    operand.bytes.assign(static_cast<size_t>(shape.elements()) * size_of(dtype), std::byte{0xCD});
    return operand;
}

Operand in_out(Operand operand, double tolerance) {
    operand.tolerance = tolerance;
    return operand;
}

double usual_tolerance(DType dtype) {
    return dtype == DType::bf16 ? 1.6e-2 : 1.2e-5;
}

void DeviceTest::SetUp() {
    if (!has_cuda_device()) GTEST_SKIP() << "no CUDA device here: " << no_cuda_device_reason();
}

Stream& DeviceTest::device_stream() {
    if (!device_stream_)
        device_stream_ = std::make_unique<Stream>(Device{DeviceType::cuda, 0}, 2, options_);
    return *device_stream_;
}

std::vector<std::vector<std::byte>> DeviceTest::run_on_device(const std::vector<Operand>& operands,
                                                              const Call& call) {
    Stream& stream = device_stream();
    MemorySource& memory = cuda_module().memory(0);
    std::vector<std::byte*> blocks;
    std::vector<View> views;
    for (const Operand& operand : operands) {
        // The operand, then its guard. Device blocks begin at multiples of 256 bytes.
        std::vector<std::byte> host(operand.bytes.size() + guard_bytes, guard);
        std::copy(operand.bytes.begin(), operand.bytes.end(), host.begin());
        blocks.push_back(static_cast<std::byte*>(memory.allocate(host.size())));
        copy_bytes(blocks.back(), memory.device(), host.data(), {}, host.size());
        views.push_back(operand.bytes.empty()
                            ? View{}
                            : View(blocks.back(), operand.dtype, operand.shape, memory.device()));
    }
    call(views, stream);
    stream.synchronize();
    std::vector<std::vector<std::byte>> results;
    for (size_t i = 0; i < operands.size(); ++i) {
        const size_t bytes = operands[i].bytes.size();
        std::vector<std::byte> host(bytes + guard_bytes);
        copy_bytes(host.data(), {}, blocks[i], memory.device(), host.size());
        for (size_t at = bytes; at < host.size(); ++at)
            if (host[at] != guard) {
                ADD_FAILURE() << operands[i].name << ": written " << at - bytes
                              << " bytes past its end";
                break;
            }
        host.resize(bytes);
        results.push_back(std::move(host));
        memory.free(blocks[i], bytes + guard_bytes);
    }
    return results;
}

std::vector<std::vector<double>> DeviceTest::on_device(const std::vector<Operand>& operands,
                                                       const Call& call) {
    return as_doubles(operands, run_on_device(operands, call));
}

std::vector<std::vector<double>> DeviceTest::on_host(const std::vector<Operand>& operands,
                                                     const Call& call) {
    std::vector<std::vector<std::byte>> memory;
    std::vector<View> views;
    for (const Operand& operand : operands)
        memory.push_back(operand.bytes);
    for (size_t i = 0; i < operands.size(); ++i)
        views.push_back(memory[i].empty()
                            ? View{}
                            : View(memory[i].data(), operands[i].dtype, operands[i].shape));
    call(views, host_stream_);
    return as_doubles(operands, memory);
}

void DeviceTest::expect_same(const std::vector<Operand>& operands, const Call& call,
                             const std::string& what) {
    const auto device = run_on_device(operands, call);
    const auto host = on_host(operands, call);
    const auto values = as_doubles(operands, device);
    for (size_t i = 0; i < operands.size(); ++i)
        if (operands[i].tolerance >= 0.0)
            expect_near(operands[i], values[i], host[i], what);
        else
            EXPECT_EQ(device[i], operands[i].bytes)
                << what << ": the input " << operands[i].name << " was changed";
    // An emulated device has no chance in it: once more, from memory that was used before.
    const int repeats = is_emulated_device() ? 1 : 19;
    for (int repeat = 0; repeat < repeats; ++repeat)
        EXPECT_EQ(run_on_device(operands, call), device)
            << what << ": other bits in run " << repeat + 2;
}

}  // namespace plinth::test
