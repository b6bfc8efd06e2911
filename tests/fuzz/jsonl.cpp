// SPDX-License-Identifier: Apache-2.0
// Any file, plain or compressed, must give lines or an error of kind data; any line must be a JSON
// value that reads back equal, or an error of kind data.
#include <cstdlib>
#include <string>

#include "core/io/compressed.h"
#include "core/io/json.h"
#include "kernels/runtime/error.h"
#include "tests/support/memory_file.h"

namespace {

using namespace plinth;
using namespace plinth::core::io;

void expect(bool condition) {
    if (!condition) std::abort();
}

void check_line(std::string_view line) {
    try {
        const Json json = Json::parse(line, "line");
        expect(Json::parse(json.dump(), "copy") == json);
        expect(Json::parse(json.dump(2), "copy") == json);
    } catch (const Error& error) {
        expect(error.kind() == ErrorKind::data);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    const std::string content(reinterpret_cast<const char*>(bytes), size);
    try {
        LineReader lines(std::make_unique<test::MemoryFile>(content));
        std::string_view line;
        // A small file may hold a long stream of line feeds: enough is enough.
        while (lines.line_number() < 1000 && lines.next(line))
            check_line(line.substr(0, 100000));
    } catch (const Error& error) {
        expect(error.kind() == ErrorKind::data);
    }
    return 0;
}
