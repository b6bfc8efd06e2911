// SPDX-License-Identifier: Apache-2.0
// Configuration text and command-line words. Anything may be refused with a config error; what is
// accepted must be written out and read back as the same text.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "kernels/runtime/error.h"
#include "launch/config/run_config.h"

namespace {

using namespace plinth::launch;

// Input: YAML text, then after a zero byte one override a line.
RunConfig read_input(const std::string& input) {
    const size_t end = std::min(input.find('\0'), input.size());
    RunConfig config;
    Schema schema;
    declare(schema, config);
    read_text(schema, input.substr(0, end), "input");
    for (size_t begin = end + 1; begin < input.size();) {
        const size_t stop = std::min(input.find('\n', begin), input.size());
        schema.apply_override(input.substr(begin, stop - begin));
        begin = stop + 1;
    }
    return config;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    try {
        RunConfig config = read_input(std::string(reinterpret_cast<const char*>(data), size));
        const std::string text = to_yaml(config);
        RunConfig copy;
        Schema schema;
        declare(schema, copy);
        read_text(schema, text, "dump");
        if (schema.dump() != text) std::abort();
        resolve(config);
        (void)validate(config);
        (void)validate_world(config, 8);
    } catch (const plinth::Error& error) {
        if (error.kind() != plinth::ErrorKind::config) std::abort();
    }
    return 0;
}
